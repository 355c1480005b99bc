"""LARS under DistributedDataParallel: torchrun --nproc-per-node 2 examples/lars_ddp.py

Every rank has its own data; the gradient that LARS sees is the mean over all of them, so all ranks take one step.
"""

import os
from functools import partial

import torch
import torch.distributed as dist
import torch.distributed.nn  # DDP does so too late: the group would outlive its end, and now and then abort the exit
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from overnight.optim import LARS
from overnight.optim.groups import param_groups
from overnight.schedule import apply, polynomial

STEPS = 60
CENTRES = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes, each a cloud around its centre."""
    y = torch.randint(0, 10, (size,))
    return CENTRES[y] + 1.5 * torch.randn(size, 64), y


def train(rank: int, world_size: int, device: torch.device) -> None:
    torch.manual_seed(rank)  # for the data; DDP gives the weights of rank 0 to all
    global_batch_size = 512 * world_size
    total_samples = STEPS * global_batch_size
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)).to(device)
    optimizer = LARS(param_groups(model, weight_decay=1e-4), lr=0.5, trust_coefficient=0.02)
    curve = partial(polynomial, power=2.0, warmup_samples=0.1 * total_samples)
    scheduler = apply(optimizer, curve, global_batch_size=global_batch_size, total_samples=total_samples)
    ddp = DistributedDataParallel(model)
    for _ in range(STEPS):
        x, y = (data.to(device) for data in batch(512))
        F.cross_entropy(ddp(x), y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    x, y = (data.to(device) for data in batch(4096))
    right = (model(x).argmax(1) == y).float().mean()
    dist.all_reduce(right)
    if rank == 0:
        print(f"{world_size} ranks, batch {global_batch_size}: accuracy {right.item() / world_size:.2%}")


if __name__ == "__main__":
    dist.init_process_group()
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    train(dist.get_rank(), dist.get_world_size(), place)
    dist.destroy_process_group()
