"""Words a second and parameters of word models by gate map: dense, factorized (F-LSTM), grouped (G-LSTM).

    python benchmarks/word_lm.py [--sizes 1024/128 2048/256] [--batch 128] [--threads N] [--out FILE.json]

Forward and backward of the recurrent layers alone, and whole training steps, at the proportions of BIGLSTM (units :
projection = 8 : 1, rank = units / 16), all maps in one process, in rounds; medians. Ratios are to dense.
Perplexities: word_lm_quality.py.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overnight.models.word_lm import WordLM, gate_map
from overnight.optim.rows import RowAdagrad
from overnight.train.host import keep_freed_memory

WORDS, SAMPLES, LENGTH = 100_000, 1_000, 20
"""Vocabulary, drawn words and words a lane of the whole steps: One Billion Word's, an eighth as the units are."""


def maps(units: int) -> list[str]:
    """The gate maps compared, at BIGLSTM's proportions."""
    return ["dense", f"factorized:{units // 16}", "grouped:2", "grouped:4", "grouped:8"]


def recurrent_parameters(gates: str, units: int, width: int, layers: int = 2) -> int:
    """Of all recurrent layers, projections included."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in gate_map(gates, width, units, width).parameters())  # type: ignore[attr-defined]
    return layers * (weights + units * width)


def stack_step(model: WordLM, batch: int) -> Callable[[], None]:
    """Forward and backward of the recurrent layers alone."""
    x = torch.randn(LENGTH, batch, model.recurrent.layers[0].gates.input_size, requires_grad=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            h, _ = model.recurrent(x)
        h.float().sum().backward()
        model.recurrent.zero_grad()

    return step


def whole_step(model: WordLM, batch: int) -> Callable[[], None]:
    """A training step: forward, backward, clipping of the recurrence, Adagrad on the step's rows."""
    optimizer = RowAdagrad(model.parameters(), lr=0.2, initial_accumulator_value=1.0, eps=0.0)
    draws = torch.Generator().manual_seed(0)
    ids = torch.rand(LENGTH + 1, batch, generator=draws).mul(math.log(WORDS)).exp().long().clamp_(max=WORDS - 1)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = model.loss(ids[:-1], ids[1:])
        (total / batch).backward()
        nn.utils.clip_grad_norm_(model.recurrent.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure, print and return rows."""
    rows = []
    for size in options.sizes:
        units, width = map(int, size.split("/"))
        steps: dict[tuple[str, str], Callable[[], None]] = {}
        for gates in maps(units):
            torch.manual_seed(0)
            model = WordLM(WORDS, width, units, gates=gates, projection=width, output=f"sampled:{SAMPLES}", sparse=True)
            steps[gates, "recurrence"] = stack_step(model, options.batch)
            steps[gates, "step"] = whole_step(model, options.batch)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for key, step in steps.items():
                before = time.perf_counter()
                step()
                times[key].append(time.perf_counter() - before)
        words = LENGTH * options.batch
        rate = {key: words / statistics.median(values) for key, values in times.items()}
        print(f"\n{units} units, projection {width}, 2 layers, {options.batch} lanes × {LENGTH} words, bf16")
        print(f"  {'gates':<16}{'parameters':>12}{'recurrence, words/s':>22}{'×':>6}{'step, words/s':>16}{'×':>6}")
        for gates in maps(units):
            recurrence, step_rate = rate[gates, "recurrence"], rate[gates, "step"]
            ratios = recurrence / rate["dense", "recurrence"], step_rate / rate["dense", "step"]
            parameters = recurrent_parameters(gates, units, width)
            alone, whole = f"{recurrence:>22,.0f}{ratios[0]:>6.2f}", f"{step_rate:>16,.0f}{ratios[1]:>6.2f}"
            print(f"  {gates:<16}{parameters:>12,}{alone}{whole}")
            rows.append(
                {
                    "units": units, "projection": width, "gates": gates, "recurrent_parameters": parameters,
                    "recurrence_words_per_s": recurrence, "recurrence_ratio": ratios[0],
                    "step_words_per_s": step_rate, "step_ratio": ratios[1],
                    "seconds": {what: times[gates, what] for what in ("recurrence", "step")},
                }
            )  # fmt: skip
    return rows


def write_results(path: Path, results: Any) -> None:
    """With date, versions and machine, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(), "results": results,
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["1024/128", "2048/256"])
    parser.add_argument("--batch", type=int, default=128, help="lanes; 128 is one GPU's in f-lm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/word_lm_speed.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    write_results(options.out, speed(options))


if __name__ == "__main__":
    main()
