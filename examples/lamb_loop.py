"""LAMB in a bare loop, with groups, a schedule, gradient accumulation and autocast: python examples/lamb_loop.py"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.schedule import apply, cosine

STEPS = 60
CENTRES = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes, each a cloud around its centre."""
    y = torch.randint(0, 10, (size,))
    return CENTRES[y] + 1.5 * torch.randn(size, 64), y


def main() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    micro_batch_size, grad_accum_steps = 256, 4
    global_batch_size = micro_batch_size * grad_accum_steps
    total_samples = STEPS * global_batch_size

    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)).to(device)
    groups = param_groups(model, weight_decay=0.01)  # biases and norms: no decay, no trust ratio
    print(groups.table())
    optimizer = LAMB(groups, lr=0.02)
    curve = partial(cosine, warmup_samples=0.1 * total_samples)
    scheduler = apply(optimizer, curve, global_batch_size=global_batch_size, total_samples=total_samples)
    for step in range(1, STEPS + 1):
        for _ in range(grad_accum_steps):
            x, y = (data.to(device) for data in batch(micro_batch_size))
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y) / grad_accum_steps
            loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == STEPS:
            print(f"step {step}  rate {scheduler.get_last_lr()[0]:.4f}  loss {loss.item() * grad_accum_steps:.4f}")
    x, y = (data.to(device) for data in batch(4096))
    print(f"accuracy {(model(x).argmax(1) == y).float().mean():.2%}")


if __name__ == "__main__":
    main()
