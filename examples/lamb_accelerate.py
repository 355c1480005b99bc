"""LAMB with Hugging Face Accelerate: accelerate launch examples/lamb_accelerate.py, or with python alone.

The schedule counts samples over all processes itself, so it stays out of prepare(), which would step it once a process.
"""

from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.schedule import apply, cosine

EPOCHS = 4


def made_up(size: int, seed: int) -> TensorDataset:
    """Ten classes, each a cloud around its centre."""
    centres = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (size,), generator=generator)
    return TensorDataset(centres[y] + 1.5 * torch.randn(size, 64, generator=generator), y)


def main() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2, mixed_precision="bf16")
    torch.manual_seed(0)
    data = made_up(16_384, seed=1)
    loader = DataLoader(data, batch_size=256, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10))
    optimizer = LAMB(param_groups(model, weight_decay=0.01), lr=0.02)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    total_samples = EPOCHS * len(data)
    scheduler = apply(
        optimizer,
        partial(cosine, warmup_samples=0.1 * total_samples),
        global_batch_size=256 * accelerator.gradient_accumulation_steps * accelerator.num_processes,
        total_samples=total_samples,
    )
    for _ in range(EPOCHS):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
    x, y = (tensor.to(accelerator.device) for tensor in made_up(4096, seed=2).tensors)
    accelerator.print(f"{scheduler.last_epoch} updates: accuracy {(model(x).argmax(1) == y).float().mean():.2%}")


if __name__ == "__main__":
    main()
