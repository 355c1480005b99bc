"""LARS with Lightning Fabric: python examples/lars_fabric.py, or fabric run --devices 2 …"""

from functools import partial

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from overnight.optim import LARS
from overnight.optim.groups import param_groups
from overnight.schedule import apply, polynomial

EPOCHS = 4


def made_up(size: int, seed: int) -> TensorDataset:
    """Ten classes, each a cloud around its centre."""
    centres = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (size,), generator=generator)
    return TensorDataset(centres[y] + 1.5 * torch.randn(size, 64, generator=generator), y)


def main() -> None:
    fabric = Fabric(precision="bf16-mixed")
    fabric.launch()
    fabric.seed_everything(0)
    data = made_up(16_384, seed=1)
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10))
    optimizer = LARS(param_groups(model, weight_decay=1e-4), lr=0.5, trust_coefficient=0.02)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(data, batch_size=512, shuffle=True))

    total_samples = EPOCHS * len(data)
    curve = partial(polynomial, power=2.0, warmup_samples=0.1 * total_samples)
    scheduler = apply(optimizer, curve, global_batch_size=512 * fabric.world_size, total_samples=total_samples)
    for _ in range(EPOCHS):
        for x, y in loader:
            fabric.backward(F.cross_entropy(model(x), y))
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    x, y = (fabric.to_device(tensor) for tensor in made_up(4096, seed=2).tensors)
    fabric.print(f"{scheduler.last_epoch} updates: accuracy {(model(x).argmax(1) == y).float().mean():.2%}")


if __name__ == "__main__":
    main()
