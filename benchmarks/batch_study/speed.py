"""Samples a second, memory, and share of the matrix rate of a training step; images a second of the loader.

    python -m benchmarks.batch_study.speed [--device cuda] [--corpus DIR] [--cases resnet-50] [--out FILE.json]

A step is forward, backward, clipping to norm 1 and LAMB, on data that is there already. On a CPU it is timed in seconds
of processor time with one thread, so that other programs cost little; on a GPU in seconds, between two waits. The
matrix rate is that of the faster of two products, measured before and after the step in the same process; operations
are counted by torch's FlopCounterMode (products, convolutions, attention). Memory is what a step adds to the process,
weights and all: on a CPU (Linux) the peak of the resident set from before the model was built, on a GPU of what was
allocated.
"""

import argparse
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.batch_study.loading import loader_rates
from overnight.data.images.batches import ImageBatch
from overnight.data.masked.batches import MaskedBatch
from overnight.models.alexnet import AlexNet
from overnight.models.bert import BERT
from overnight.models.resnet import ResNet
from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.recipes.bert_presets import PRESETS
from overnight.recipes.image_presets import ALEXNETS, RESNETS
from overnight.tasks.classification import ClassificationTask
from overnight.tasks.pretraining import PretrainingTask
from overnight.train.host import keep_freed_memory

VOCABULARY, LENGTH, HIDDEN = 30_522, 128, 19
"""Of BERT; 19 of 128 word pieces are hidden."""
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
MATRICES = {"cpu": ((1024, 1024, 1024), (2048, 1024, 4096)), "cuda": ((8192, 8192, 8192), (16384, 4096, 4096))}


@dataclass(frozen=True)
class Case:
    """A model and its batches.

    Attributes:
        task: makes it.
        batch: (rows) → batch.
        rows: of a step, by device.
    """

    task: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    rows: dict[str, int]


def bert_case(preset: str, cpu: int, cuda: int) -> Case:
    size = PRESETS[preset]

    def task() -> nn.Module:
        model = BERT(
            vocab_size=VOCABULARY, hidden_size=size.hidden_size, num_layers=size.layers, num_heads=size.heads,
            max_position=512, dropout=0.1,
        )  # fmt: skip
        return PretrainingTask(model, next_sentence=float(HIDDEN))

    return Case(task, full_sequences, {"cpu": cpu, "cuda": cuda})


def full_sequences(rows: int) -> MaskedBatch:
    """Rows without padding."""
    drawn = torch.Generator().manual_seed(0)
    input_BT = torch.randint(5, VOCABULARY, (rows, LENGTH), generator=drawn)
    places = torch.arange(LENGTH).repeat(rows, 1)
    masked_M = (torch.arange(rows)[:, None] * LENGTH + torch.arange(1, HIDDEN + 1)).flatten()
    target_M, first_S = input_BT.flatten()[masked_M], torch.arange(rows) * LENGTH
    whole, swapped_S = torch.ones_like(input_BT), torch.arange(rows) % 2
    types = (places > LENGTH // 2).long()
    return MaskedBatch(input_BT, types, places, whole, masked_M, target_M, first_S, swapped_S, False, len(target_M))


def image_case(network: Callable[..., nn.Module], preset: Any, classes: int, cpu: int, cuda: int) -> Case:
    size, extra = preset.size, {"image_size": preset.size} if network is AlexNet else {}

    def batch(rows: int) -> ImageBatch:
        drawn = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (rows, size, size, 3), dtype=torch.uint8, generator=drawn)
        return ImageBatch(pixels, torch.randint(0, classes, (rows,), generator=drawn))

    task = lambda: ClassificationTask(network(classes=classes, **preset.model, **extra))  # noqa: E731
    return Case(task, batch, {"cpu": cpu, "cuda": cuda})


CASES = {
    "bert-tiny": bert_case("tiny", 32, 1024),
    "bert-base": bert_case("base", 4, 128),
    "bert-large": bert_case("large", 1, 64),
    "resnet-8": image_case(ResNet, RESNETS["cifar-small"], 10, 128, 2048),
    "resnet-50": image_case(ResNet, RESNETS["imagenet"], 1000, 8, 256),
    "alexnet": image_case(AlexNet, ALEXNETS["imagenet"], 1000, 32, 512),
    "alexnet-bn": image_case(AlexNet, ALEXNETS["imagenet-bn"], 1000, 32, 512),
}


def clock(device: str) -> float:
    """Seconds: of the processor for a CPU, of the wall, after all work is done, for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def matrix_rate(device: str, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second of the faster of two matrix products."""
    rates = []
    for rows, inner, columns in MATRICES[device]:
        x, weight = torch.randn(rows, inner, device=device, dtype=dtype), torch.randn(columns, inner, device=device)
        weight = weight.to(dtype)
        nn.functional.linear(x, weight)
        began, repeats = clock(device), 0
        while repeats < 2 or clock(device) - began < seconds:
            for _ in range(10 if device == "cuda" else 1):
                nn.functional.linear(x, weight)
            repeats += 10 if device == "cuda" else 1
        rates.append(2.0 * rows * inner * columns * repeats / (clock(device) - began))
    return max(rates)


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """A list that holds, afterwards, the peak above what there was, in MB."""
    found: list[float] = []
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of earlier cases would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    yield found
    found.append((resident("VmHWM") - before) / 1e3)


def resident(name: str) -> float:
    """kB, from the kernel's table of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


def measure(name: str, device: str, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """One case in one precision."""
    case = CASES[name]
    rows = case.rows[device]
    first_rate = matrix_rate(device, dtype)
    with peak_memory(device) as memory:
        torch.manual_seed(0)
        task = case.task().to(device)
        optimizer = LAMB(param_groups(task, weight_decay=0.01), lr=1e-3)
        batch = case.batch(rows).to(torch.device(device))

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = task(batch, {})
            objective = loss.total if loss.objective is None else loss.objective
            (objective / loss.count).backward()
            nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()

        forward = lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)  # noqa: E731
        backward = lambda g, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(g, q, k, v)  # noqa: E731
        own = {ATTENTION: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
        with FlopCounterMode(display=False, custom_mapping=own) as counter:
            step()
        step()
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            began = clock(device)
            step()
            times.append(clock(device) - began)
    operations, taken = counter.get_total_flops(), statistics.median(times)
    rate = max(first_rate, matrix_rate(device, dtype))
    return {
        "case": name, "device": device, "dtype": str(dtype).removeprefix("torch."), "rows": rows,
        "parameters": sum(p.numel() for p in task.parameters()), "seconds": taken, "samples_per_s": rows / taken,
        "gflop_per_sample": operations / rows / 1e9, "gflops": operations / taken / 1e9, "matrix_gflops": rate / 1e9,
        "share": operations / taken / rate, "peak_mb": memory[0], "steps": len(times),
    }  # fmt: skip


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_study.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cases", nargs="*", default=[name for name in CASES if name != "bert-large"], choices=CASES)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a case")
    parser.add_argument("--corpus", type=Path, default=None, help="of BERT, for the loader")
    parser.add_argument("--no-loader", action="store_true")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the trainer does
    found: dict[str, Any] = {"torch": torch.__version__, "steps": [], "loader": []}
    print("| | batch | GFLOP a sample | samples/s | GFLOP/s | matrix rate | share | peak, MB |")
    print(f"|{'---|' * 8}")
    for name in options.cases:
        for dtype in (torch.float32, torch.bfloat16):
            one = measure(name, options.device, dtype, options.seconds)
            found["steps"].append(one)
            print(
                f"| {name}, {one['dtype']} | {one['rows']} | {one['gflop_per_sample']:.3g} "
                f"| {one['samples_per_s']:,.1f} "
                f"| {one['gflops']:,.0f} | {one['matrix_gflops']:,.0f} | {one['share']:.0%} | {one['peak_mb']:,.0f} |",
                flush=True,
            )
    if not options.no_loader:
        with tempfile.TemporaryDirectory() as folder:
            for one in loader_rates(Path(folder), options.corpus, np.random.default_rng(0)):
                found["loader"].append(one)
                print(f"{one['what']}: {one['per_s']:,.0f} a second of processor time", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
