"""Local steps (DiLoCo): torchrun --nproc-per-node 2 examples/local_steps.py

Every rank trains alone for 10 steps; then all meet at an outer step along their mean displacement. No DDP is needed.
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from overnight.comm import LocalSteps, Meter, join_ranks

STEPS = 60
CENTRES = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes, each a cloud around its centre."""
    y = torch.randint(0, 10, (size,))
    return CENTRES[y] + 1.5 * torch.randn(size, 64), y


def train(rank: int, world_size: int, device: torch.device) -> None:
    torch.manual_seed(rank)  # for the data; LocalSteps gives the weights of rank 0 to all
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    meter = Meter()
    local = LocalSteps(model, every=10, meter=meter)
    for _ in range(STEPS):
        x, y = (data.to(device) for data in batch(512))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        local.step()
    local.exchange_now()  # nothing after 60 steps, which are 6 exchanges; otherwise before whatever reads the weights
    traffic = meter.read()
    x, y = (data.to(device) for data in batch(4096))
    right = (model(x).argmax(1) == y).float().mean()
    dist.all_reduce(right)
    if rank == 0:
        print(f"{world_size} ranks, batch {512 * world_size}: accuracy {right.item() / world_size:.2%}")
        print(f"{traffic.wire_bytes / traffic.steps / 1000:.1f} kB a step")
    local.close()


if __name__ == "__main__":
    join_ranks()
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    train(dist.get_rank(), dist.get_world_size(), place)
    dist.destroy_process_group()
