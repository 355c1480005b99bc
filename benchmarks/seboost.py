"""SEBOOST's own experiments, with what they had left out: schedules, equal gradient evaluations, equal time, rates.

    python benchmarks/seboost.py [FOLDER] [--tasks regression autoencoder …] [--bases sgd adam …] [--arms base cg …]
    python benchmarks/seboost.py [FOLDER] --overhead
    python benchmarks/seboost.py --table

Every run is one line of ``--out``; what is there is not run again, so a stopped benchmark goes on where it was. A run
has a budget, which its schedule spans: ``gradients`` counts passes of a training batch (forward and backward 1, forward
1/3, Jacobian product 2/3; those of boost batches by their share of samples), ``seconds`` is the processor time that the
base optimizer alone takes for the same budget of gradients, measured before. Rates are a grid of √10, schedules
constant and cosine to zero; each arm has its own best of both, by the loss on held-out training samples, which is also
what "usable" means: at most 1.1 times the base optimizer's best (mean over seeds). Test figures are of that choice.
"""

import argparse
import gzip
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.optim import SEBoost
from overnight.optim.subspace import Fixed, GaussNewton, NonlinearCG

KEYS = ("task", "base", "arm", "unit", "schedule", "rate", "seed", "budget")
Batch = tuple[Tensor, Tensor]
FORWARD, PRODUCT = 1 / 3, 2 / 3
USABLE = 1.1
GRID = 10**0.5


@dataclass(frozen=True)
class Task:
    """Data, model and loss; ``error`` counts what is wrong, in percent, where there are classes."""

    train: Batch
    held_out: Batch
    test: Batch
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    classes: bool = False
    batch: int = 100


def regression(folder: Path) -> Task:
    """20,000 points of a random net of the same kind but wider, with noise; 6-12-8-4-1, ReLU."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30_000, 6, generator=draw)
    weights = [torch.randn(shape, generator=draw) / shape[0] ** 0.5 for shape in ((6, 64), (64, 64), (64, 1))]
    y = torch.tanh(torch.tanh(2 * x @ weights[0]) @ weights[1] * 2) @ weights[2]
    y = y / y.std() + 0.05 * torch.randn(y.shape, generator=draw)

    def model() -> nn.Module:
        sizes = [6, 12, 8, 4, 1]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    parts = [(x[part], y[part]) for part in (slice(20_000), slice(20_000, 25_000), slice(25_000, None))]
    return Task(*parts, model, F.mse_loss)


def mnist(folder: Path) -> list[Batch]:
    """Training (55,000), held-out (5,000) and test images [N, 784] in [0, 1], with labels."""
    found = []
    for part in ("train", "t10k"):
        raw = []
        for name, header_bytes in (("images-idx3", 16), ("labels-idx1", 8)):
            content = gzip.decompress((folder / "mnist" / f"{part}-{name}-ubyte.gz").read_bytes())
            raw.append(torch.frombuffer(bytearray(content), dtype=torch.uint8)[header_bytes:])
        found.append((raw[0].view(-1, 784) / 255, raw[1].long()))
    (x, y), test = found
    return [(x[:55_000], y[:55_000]), (x[55_000:], y[55_000:]), test]


def autoencoder(folder: Path) -> Task:
    """784-200-100-64 and back, ReLU, the last layer sigmoid; mean squared error."""

    def model() -> nn.Module:
        sizes = [784, 200, 100, 64, 100, 200, 784]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1], nn.Sigmoid())

    return Task(*[(x, x) for x, _ in mnist(folder)], model, F.mse_loss)


def classifier(folder: Path) -> Task:
    """784-500-300-10, ReLU, dropout 0.2."""

    def model() -> nn.Module:
        front = [nn.Linear(784, 500), nn.ReLU(), nn.Dropout(0.2), nn.Linear(500, 300), nn.ReLU(), nn.Dropout(0.2)]
        return nn.Sequential(*front, nn.Linear(300, 10))

    return Task(*mnist(folder), model, F.cross_entropy, classes=True)


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch normalisation, and a 1 × 1 one beside where the size changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.main = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.beside = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.beside(x))


def resnet(folder: Path) -> Task:
    """ResNet-8 of 16 to 64 channels on MNIST's digits at 32 × 32: the size of CIFAR's images, not its difficulty."""

    def model() -> nn.Module:
        front = [nn.Unflatten(1, (1, 28, 28)), nn.ZeroPad2d(2), nn.Conv2d(1, 16, 3, 1, 1, bias=False)]
        middle = [nn.BatchNorm2d(16), nn.ReLU(), Residual(16, 16), Residual(16, 32), Residual(32, 64)]
        return nn.Sequential(*front, *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    return Task(*mnist(folder), model, F.cross_entropy, classes=True)


TASKS = {"regression": regression, "autoencoder": autoencoder, "classifier": classifier, "resnet": resnet}
BUDGETS = {"regression": 5000, "autoencoder": 3000, "classifier": 2000, "resnet": 500}
BASES: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "sgd": (torch.optim.SGD, 0.1),
    "momentum": (lambda ps, lr: torch.optim.SGD(ps, lr, momentum=0.9), 0.03),
    "nag": (lambda ps, lr: torch.optim.SGD(ps, lr, momentum=0.9, nesterov=True), 0.03),
    "adagrad": (torch.optim.Adagrad, 0.03),
    "adam": (torch.optim.Adam, 0.003),
}
"""How each is built, and the middle of its grid of rates."""
SCALE = {"autoencoder": {"sgd": 300.0, "momentum": 100.0, "nag": 100.0}}
"""What the grid is multiplied by: a mean over 784 pixels has small gradients."""
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "cg": {"rule": NonlinearCG()},
    "cg-50": {"rule": NonlinearCG(), "every": 50},
    "cg-1000": {"rule": NonlinearCG(), "samples": 1000},
    "published": {"rule": NonlinearCG.published(), "every": 100, "accept": False, "momentum_column": 0.9},
    "gauss-newton": {"rule": GaussNewton(), "every": 100, "orthonormal": True},
    "lookahead": {"rule": Fixed(0.5), "every": 5, "history": 1},
}


def build(task: Task, base: str, arm: str, rate: float, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer; boost batches are drawn from all training samples."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = BASES[base][0](model.parameters(), lr=rate)
    settings = dict(ARMS[arm])
    samples = settings.pop("samples", task.batch)
    if not settings:
        return model, optimizer
    if not settings["rule"].searches:
        return model, SEBoost(optimizer, **settings)

    def batches(number: int) -> Batch:
        draw = torch.Generator().manual_seed(1_000_000 * (seed + 1) + number)
        rows = torch.randint(len(task.train[0]), (samples,), generator=draw)
        return task.train[0][rows], task.train[1][rows]

    given: dict[str, Any] = {"loss": lambda batch: task.loss(model(batch[0]), batch[1])}
    if settings["rule"].needs_outputs:
        given = {"outputs": lambda batch: model(batch[0]), "loss": lambda out, batch: task.loss(out, batch[1])}
    return model, SEBoost(optimizer, model=model, batches=batches, **given, **settings)


def spent_by(optimizer: torch.optim.Optimizer, seen: int) -> tuple[float, int]:
    """Gradient evaluations of the newest boost, if it has not been counted yet; and its number."""
    last = getattr(optimizer, "last", None)
    if last is None or last.outer == seen:
        return 0.0, seen
    return last.gradients + FORWARD * last.forwards + PRODUCT * last.products, last.outer


@torch.no_grad()
def measure(model: nn.Module, task: Task, part: Batch) -> tuple[float, float]:
    """Mean loss, and percent wrong."""
    model.eval()
    loss, wrong = 0.0, 0
    for x, y in zip(part[0].split(1000), part[1].split(1000), strict=True):
        out = model(x)
        loss += float(task.loss(out, y)) * len(x)
        wrong += int((out.argmax(1) != y).sum()) if task.classes else 0
    model.train()
    return loss / len(part[0]), 100 * wrong / len(part[0])


def run(
    task: Task, base: str, arm: str, rate: float, schedule: str, seed: int, budget: float, unit: str
) -> dict[str, Any]:
    """One training run until its budget is spent, of gradients or of seconds."""
    model, optimizer = build(task, base, arm, rate, seed)
    draw = torch.Generator().manual_seed(seed)
    gradients, seconds, steps, accepted, boosts, seen = 0.0, 0.0, 0, 0, 0, 0
    order = torch.empty(0, dtype=torch.int64)
    while (gradients if unit == "gradients" else seconds) < budget:
        if len(order) < task.batch:
            order = torch.randperm(len(task.train[0]), generator=draw)
        rows, order = order[: task.batch], order[task.batch :]
        started = time.process_time()
        done = min((gradients if unit == "gradients" else seconds) / budget, 1.0)
        factor = 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        loss = task.loss(model(task.train[0][rows]), task.train[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.process_time() - started
        cost, now = spent_by(optimizer, seen)
        cost *= ARMS[arm].get("samples", task.batch) / task.batch
        if now != seen:
            boosts, seen = boosts + 1, now
            accepted += optimizer.last.accepted  # type: ignore[attr-defined]
        gradients, steps = gradients + 1 + cost, steps + 1
        if steps % 50 == 0 and not math.isfinite(float(loss.detach())):
            break
    held_out, test = measure(model, task, task.held_out), measure(model, task, task.test)
    return {
        "held_out": held_out[0], "test": test[0], "test_error_percent": test[1], "steps": steps,
        "gradients": round(gradients, 1), "cpu_s": round(seconds, 2), "boosts": boosts, "accepted": accepted,
    }  # fmt: skip


def seconds_of(task: Task, base: str, budget: float) -> float:
    """Processor time of the base optimizer for a budget of gradients, from a twentieth of it; the better of two."""
    tries = [run(task, base, "base", 1e-4, "constant", 0, max(budget / 20, 20), "gradients") for _ in range(2)]
    return budget * min(found["cpu_s"] / found["gradients"] for found in tries)


def overhead(task: Task, base: str, rounds: int = 15) -> dict[str, float]:
    """Processor time of a boost at the defaults over that of the steps before it; medians, boosts after 20 steps."""
    model, optimizer = build(task, base, "cg", BASES[base][1], 0)
    assert isinstance(optimizer, SEBoost)
    assert optimizer.batches is not None
    steps, boosts = [], []
    for number in range(rounds + 10):  # the first ones fill the ring
        for step in range(20):
            first = (20 * number + step) * task.batch % (len(task.train[0]) - task.batch)
            started = time.process_time()
            optimizer.zero_grad()
            rows = slice(first, first + task.batch)
            task.loss(model(task.train[0][rows]), task.train[1][rows]).backward()
            optimizer.step()
            steps.append(time.process_time() - started)
        pair = optimizer.batches(2 * number), optimizer.batches(2 * number + 1)
        started = time.process_time()
        optimizer.boost(*pair)
        boosts.append(time.process_time() - started)
    step_s, boost_s = median(steps), median(boosts[10:])
    return {
        "ms_a_step": round(1000 * step_s, 3), "ms_a_boost": round(1000 * boost_s, 2), "every": optimizer.every,
        "overhead_percent": round(100 * boost_s / (optimizer.every * step_s), 1),
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> None:
    """Of each task, base and arm: the best run by held-out loss at equal gradients and seconds, and usable rates."""
    groups: dict[tuple[str, ...], dict[tuple[str, float], list[dict[str, Any]]]] = {}
    for found in results:
        key = (found["task"], found["base"], found["unit"], found["arm"])
        groups.setdefault(key, {}).setdefault((found["schedule"], found["rate"]), []).append(found)

    def mean(runs: list[dict[str, Any]], name: str) -> float:
        value = sum(run[name] for run in runs) / len(runs)
        return value if math.isfinite(value) else math.inf

    print(
        f"{'task':<12}{'base':<10}{'equal':<10}{'arm':<14}{'held out':>10}{'test':>10}{'wrong %':>9}  best of its own"
    )
    for (task, base, unit, arm), choices in sorted(groups.items()):
        best = min(choices, key=lambda choice: mean(choices[choice], "held_out"))
        runs = choices[best]
        alone = groups.get((task, base, unit, "base"), {})
        limit = USABLE * min((mean(runs, "held_out") for runs in alone.values()), default=math.nan)
        usable = {
            schedule: sorted(rate for (s, rate), r in choices.items() if s == schedule and mean(r, "held_out") <= limit)
            for schedule in ("constant", "cosine")
        }
        ranges = ", ".join(f"{s} {r[0]:.2g}-{r[-1]:.2g} ({len(r)})" for s, r in usable.items() if r)
        print(
            f"{task:<12}{base:<10}{unit:<10}{arm:<14}{mean(runs, 'held_out'):>10.5f}{mean(runs, 'test'):>10.5f}"
            f"{mean(runs, 'test_error_percent'):>9.2f}  {best[0]} {best[1]:.2g} ({len(runs)} seeds); usable: {ranges}"
        )


def read(path: Path) -> list[dict[str, Any]]:
    """Runs that were made."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [found for found in map(json.loads, lines) if "arm" in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("OVERNIGHT_DATA", ".")))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--units", nargs="+", default=["gradients", "seconds"], choices=["gradients", "seconds"])
    parser.add_argument("--schedules", nargs="+", default=["constant", "cosine"], choices=["constant", "cosine"])
    parser.add_argument("--rates", type=int, default=7, help="how many of the grid, around its middle")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=int, help="gradients of a run; the default depends on the task")
    parser.add_argument("--overhead", action="store_true", help="only measure what boosts at the defaults cost")
    parser.add_argument("--table", action="store_true", help="only print what --out has")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/seboost.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"date": date.today().isoformat(), "torch": torch.__version__, "cpu": platform.processor()}
    done = {json.dumps([r[k] for k in KEYS]) for r in read(options.out)}
    for name in [] if options.table else options.tasks:
        if name != "regression" and not (options.folder / "mnist").exists():
            print(f"{name} is left out: {options.folder} has no mnist. Give its folder, or set OVERNIGHT_DATA.")
            continue
        task, budget = TASKS[name](options.folder), options.budget or BUDGETS[name]
        for base in options.bases:
            if options.overhead:
                write(options.out, {"task": name, "base": base, **overhead(task, base), **machine})
                continue
            seconds = seconds_of(task, base, budget) if "seconds" in options.units else 0.0
            middle = BASES[base][1] * SCALE.get(name, {}).get(base, 1.0)
            for arm, unit, schedule, seed, number in product(
                options.arms, options.units, options.schedules, options.seeds, range(options.rates)
            ):
                rate = float(f"{middle * GRID ** (number - options.rates // 2):.3g}")
                key = [name, base, arm, unit, schedule, rate, seed, budget]
                if json.dumps(key) in done:
                    continue
                limit = float(budget) if unit == "gradients" else seconds
                found = run(task, base, arm, rate, schedule, seed, limit, unit)
                write(options.out, {**dict(zip(KEYS, key, strict=True)), **found, **machine})
    if not options.overhead:
        table(read(options.out))


def write(path: Path, record: dict[str, Any]) -> None:
    """One more line, shown too."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(" ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items()), flush=True)


if __name__ == "__main__":
    main()
