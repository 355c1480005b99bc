"""MNIST in 35 steps of the full batch: LAMB, LARS, momentum SGD and AdamW, each tuned.

    python benchmarks/full_batch.py [FOLDER] [--samples 60000] [--seeds 0 1 2] [--arms lamb lars …]
    python benchmarks/full_batch.py [FOLDER] --tune

The network is that of the LAMB author's own experiment (TensorFlow's tutorial: two 5 × 5 convolutions, 1024 units,
dropout 0.4; uniform Glorot weights, zero biases; images in [0, 1]), and so are 35 steps, the warm-up of 10 and the
decay of power 0.5. ``--tune`` runs every arm at every rate of its grid on the first 2,000 images as one batch, and
chooses by the accuracy on 5,000 other training images; the test images are not looked at. The rates in ``ARMS`` are
the chosen ones: of six for LAMB and LARS, and of eight for the others: AdamW's best had been at the edge, momentum's
range is narrow. Biases take no decay; they are adapted in ``lars`` (which diverges otherwise: they would see its whole
rate) and ``lamb-all``, not in ``lamb`` and in ``nvlamb``, which clips the gradients at a norm of 1. ``author`` is the
first author's own code: no bias correction, the same clipping, biases adapted, a first rate of 0, a decay that counts
from the first step on. One thread a process; bfloat16 autocast.
"""

import argparse
import gzip
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.optim import LAMB, LARS
from overnight.optim.groups import ONE_DIMENSIONAL, Rule, param_groups
from overnight.schedule import Progress, Schedule, apply, polynomial

STEPS, WARMUP = 35, 10
ALL_ADAPTED = (Rule({"weight_decay": 0.0}, max_ndim=1),)


def author_schedule(progress: Progress) -> float:
    """His ramp starts at 0, and his decay, which it hides, at the first step."""
    done = progress.samples / (WARMUP * progress.batch)
    return done if done < 1 else polynomial(progress, power=0.5)


@dataclass(frozen=True)
class Arm:
    """An optimizer, the rates that are tried, and the one that is chosen."""

    make: Callable[..., torch.optim.Optimizer]
    grid: tuple[float, ...]
    chosen: float
    weight_decay: float = 0.0
    rules: tuple[Rule, ...] = ALL_ADAPTED
    schedule: Schedule | None = None


ARMS = {
    "lamb": Arm(LAMB, (0.02, 0.04, 0.08, 0.11, 0.16, 0.24), 0.08, 2e-4, (ONE_DIMENSIONAL,)),
    "lamb-all": Arm(LAMB, (0.02, 0.04, 0.08, 0.11, 0.16, 0.24), 0.08, 2e-4),
    "nvlamb": Arm(
        partial(LAMB, variant="nvlamb"), (0.02, 0.04, 0.08, 0.11, 0.16, 0.24), 0.08, 2e-4, (ONE_DIMENSIONAL,)
    ),
    "lars": Arm(LARS, (2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 16.0, 1e-4),
    "momentum": Arm(partial(torch.optim.SGD, momentum=0.9), (0.02, 0.035, 0.05, 0.07, 0.1, 0.2, 0.4, 0.8), 0.035),
    "adamw": Arm(torch.optim.AdamW, (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2), 1.6e-2, 0.01),
    "author": Arm(partial(LAMB, variant="author", max_grad_norm=1.0), (), 0.11, 2e-4, schedule=author_schedule),
}


def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] in [0, 1] and labels."""
    found = []
    for name, header_bytes in (("images-idx3", 16), ("labels-idx1", 8)):
        content = gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes())
        found.append(torch.frombuffer(bytearray(content), dtype=torch.uint8)[header_bytes:])
    return found[0].view(-1, 1, 28, 28).contiguous(memory_format=torch.channels_last) / 255, found[1].long()


def network() -> nn.Module:
    """Pooling before the ReLU, which is the same and cheaper."""
    front = [nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5, padding=2)]
    head = [nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.4), nn.Linear(1024, 10)]
    model = nn.Sequential(*front, nn.MaxPool2d(2), nn.ReLU(), *head).to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    parts = zip(images.split(500), labels.split(500), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    model.train()
    return right / len(labels)


def run(
    arm: Arm, rate: float, seed: int, images: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    """35 steps of all the images."""
    torch.manual_seed(seed)
    model, samples = network(), len(images)
    optimizer = arm.make(param_groups(model, arm.rules, weight_decay=arm.weight_decay), lr=rate)
    schedule = arm.schedule or partial(polynomial, power=0.5, warmup_samples=WARMUP * samples)
    scheduler = apply(optimizer, schedule, global_batch_size=samples, total_samples=STEPS * samples)
    losses, started = [], time.process_time()
    for _ in range(STEPS):
        loss = torch.zeros(())
        for x, y in zip(images.split(200), labels.split(200), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x)
            part = F.cross_entropy(logits.float(), y, reduction="sum") / samples
            part.backward()
            loss += part.detach()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(round(float(loss), 5))
    seconds = time.process_time() - started
    return {
        "rate": rate, "seed": seed, "samples": samples, "accuracy": accuracy(model, *held_out), "losses": losses,
        "cpu_s": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("OVERNIGHT_DATA", ".")) / "mnist")
    parser.add_argument("--tune", action="store_true", help="every rate of the grids, on 2,000 images")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/full_batch.json"))
    options = parser.parse_args()
    if not (options.folder / "train-images-idx3-ubyte.gz").exists():
        print(f"There is no MNIST in {options.folder}: give its folder, or set OVERNIGHT_DATA to the folder above it.")
        return
    torch.set_num_threads(1)
    images, labels = read(options.folder, "train")
    held_out = (images[-5000:], labels[-5000:]) if options.tune else read(options.folder, "t10k")
    samples = 2000 if options.tune else options.samples
    results = []
    for name in options.arms:
        arm = ARMS[name]
        for rate in arm.grid if options.tune else (arm.chosen,):
            for seed in options.seeds:
                found = run(arm, rate, seed, images[:samples], labels[:samples], held_out)
                results.append({"arm": name, **found})
                print(
                    f"{name:<9} rate {rate:<7g} seed {seed}  batch {samples}  last loss {found['losses'][-1]:.4f}  "
                    f"accuracy {found['accuracy']:.2%}  {found['cpu_s']:.0f} s",
                    flush=True,
                )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "torch": torch.__version__, "cpu": platform.processor(), "tune": options.tune,
        "capability": torch.backends.cpu.get_cpu_capability(), "results": results,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
