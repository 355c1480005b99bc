"""MNIST in 35 steps of all 60,000 images, with LAMB: python examples/mnist_full_batch.py [FOLDER] [--samples 60000]

FOLDER holds the four gzipped idx files; without it, the folder mnist in $OVERNIGHT_DATA. It takes minutes on a CPU.
Network, decay and warm-up are those of LAMB's author; benchmarks/full_batch.py chose the rate and has other optimizers.
"""

import argparse
import gzip
import os
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.schedule import apply, polynomial


def read(path: Path, header_bytes: int) -> Tensor:
    return torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=torch.uint8)[header_bytes:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("OVERNIGHT_DATA", ".")) / "mnist")
    parser.add_argument("--samples", type=int, default=60_000)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = {}
    for part in ("train", "t10k"):
        images = read(options.folder / f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)[: options.samples] / 255
        labels = read(options.folder / f"{part}-labels-idx1-ubyte.gz", 8)[: options.samples].long()
        data[part] = list(zip(images.split(200), labels.split(200), strict=True))  # parts that fit into the cache
    samples, steps = sum(len(labels) for _, labels in data["train"]), 35
    front = [nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5, padding=2)]
    head = [nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.4), nn.Linear(1024, 10)]
    model = nn.Sequential(*front, nn.MaxPool2d(2), nn.ReLU(), *head).to(memory_format=torch.channels_last)
    optimizer = LAMB(param_groups(model, weight_decay=2e-4), lr=0.08)
    curve = partial(polynomial, power=0.5, warmup_samples=10 * samples)
    scheduler = apply(optimizer, curve, global_batch_size=samples, total_samples=steps * samples)
    for step in range(1, steps + 1):
        for images, labels in data["train"]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(images)
            (F.cross_entropy(logits.float(), labels, reduction="sum") / samples).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        print(f"step {step}: rate {scheduler.get_last_lr()[0]:.4f}", flush=True)
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in data["t10k"])
    print(f"test accuracy {right / sum(len(labels) for _, labels in data['t10k']):.2%}")


if __name__ == "__main__":
    main()
