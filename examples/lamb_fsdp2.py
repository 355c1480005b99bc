"""LAMB with weights sharded by FSDP2: torchrun --nproc-per-node 2 examples/lamb_fsdp2.py

A rank holds a part of each weight, and of LAMB's state; the trust ratio is still that of the whole layer.
"""

import os
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.schedule import apply, cosine

STEPS = 60
CENTRES = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes, each a cloud around its centre."""
    y = torch.randint(0, 10, (size,))
    return CENTRES[y] + 1.5 * torch.randn(size, 64), y


def train(rank: int, world_size: int, device: torch.device) -> None:
    global_batch_size = 512 * world_size
    total_samples = STEPS * global_batch_size
    torch.manual_seed(0)  # the same weights everywhere, before they are cut
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)).to(device)
    fully_shard(model[0])
    fully_shard(model)
    torch.manual_seed(rank)
    optimizer = LAMB(param_groups(model, weight_decay=0.01), lr=0.02)  # after fully_shard, which replaces the weights
    curve = partial(cosine, warmup_samples=0.1 * total_samples)
    scheduler = apply(optimizer, curve, global_batch_size=global_batch_size, total_samples=total_samples)
    for _ in range(STEPS):
        x, y = (data.to(device) for data in batch(512))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    x, y = (data.to(device) for data in batch(4096))
    right = (model(x).argmax(1) == y).float().mean()
    dist.all_reduce(right)
    if rank == 0:
        print(f"{world_size} ranks, batch {global_batch_size}: accuracy {right.item() / world_size:.2%}", flush=True)


if __name__ == "__main__":
    dist.init_process_group()
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    train(dist.get_rank(), dist.get_world_size(), place)
    dist.destroy_process_group()
    os._exit(0)  # with gloo, DTensor's caches keep threads that now and then abort an ordinary exit (torch 2.13)
