"""Words a second, parameters and perplexity of word models by gate map: dense, factorized (F-LSTM), grouped (G-LSTM).

    python benchmarks/word_lm.py speed [--sizes 1024/128 2048/256] [--batch 128] [--out FILE.json]
    python benchmarks/word_lm.py quality FOLDER --corpora ptb=DIR wsj=DIR [--minutes 10] [--epochs 6] [--seeds 0 1]

``speed``: forward and backward of the recurrent layers alone, and whole training steps, at the proportions of BIGLSTM
(units : projection = 8 : 1, rank = units / 16), all maps in one process, in rounds; medians. Ratios are to dense.

``quality``: every cell is a run folder, so that a run that was interrupted goes on and a finished one is not made
again. *time*: the same units for the same minutes; *parameters*: as many recurrent parameters as dense, over the same
words. The rate falls linearly to 0 in both. Test perplexity is exact; the interval over seeds is Student's, 95 %.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overnight.data.words.corpus import WordCorpus
from overnight.evaluate.words import evaluate_words, load_word_model
from overnight.models.word_lm import WordLM, gate_map
from overnight.optim.rows import RowAdagrad
from overnight.recipes.word_lm import word_lm
from overnight.schedule import linear
from overnight.train.host import keep_freed_memory
from overnight.train.launch import Options, train

WORDS, SAMPLES, LENGTH = 100_000, 1_000, 20
"""Vocabulary, drawn words and words a lane of the whole steps: One Billion Word's, an eighth as the units are."""
UNITS, WIDTH = 800, 200
"""Units, and width of embedding and projection, of the dense model of the quality runs."""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
"""97.5 % quantile of Student's t by degrees of freedom."""


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


def as_many(gates: str) -> int:
    """Units, a multiple of 8, that give a map as many recurrent parameters as the dense model's."""
    target = recurrent_parameters("dense", UNITS, WIDTH)
    choices = range(UNITS, 6 * UNITS, 8)
    return min(choices, key=lambda units: abs(recurrent_parameters(gates, units, WIDTH) - target))


def cells(options: argparse.Namespace) -> dict[str, tuple[str, str, int, int]]:
    """Name of the run folder → corpus, gates, units, seed."""
    found = {}
    for corpus in options.corpora:
        for arm in options.arms:
            for gates in maps(UNITS)[:4]:
                units = UNITS if arm == "time" or gates == "dense" else as_many(gates)
                for seed in options.seeds:
                    name = f"{corpus.partition('=')[0]}-{arm}-{gates.replace(':', '')}-{units}-{seed}"
                    found[name] = (corpus.partition("=")[2], gates, units, seed)
    return found


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make what is missing, print and return rows."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (corpus, gates, units, seed) in cells(options).items():
        folder = options.folder / name
        if not (folder / "test.json").is_file():
            budget = {"minutes": options.minutes} if "-time-" in name else {"epochs": options.epochs}
            run = word_lm(Path(corpus), gates=gates, dropout=options.dropout, evaluations=1, seed=seed, **budget)
            # every map by its own rule: one range for 800 and for 3,520 units would favour one of them
            sizes = {"hidden_size": units, "projection": WIDTH, "embedding_size": WIDTH, "init_range": None}
            for setting, value in sizes.items():
                run = run.with_setting(f"model.{setting}={value}")
            run = replace(run, schedule=partial(linear), threads=options.threads)
            train(run, folder, Options(device=options.device, resume=(folder / "run.json").is_file()))
            loaded = load_word_model(folder, "last", options.device)
            data = WordCorpus(corpus)
            test = evaluate_words(loaded.model, data.split("test"), eos=data.eos, vocab_size=data.vocab_size)
            summary = json.loads((folder / "summary.json").read_text())
            result = {
                "gates": gates, "units": units, "seed": seed, "recurrent": recurrent_parameters(gates, units, WIDTH),
                "words": summary["tokens"], "seconds": summary["seconds"], "test": vars(test),
            }  # fmt: skip
            (folder / "test.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        rows.setdefault(name.rpartition("-")[0], []).append(json.loads((folder / "test.json").read_text()))
    print(f"\n{'cell':<36}{'parameters':>12}{'words/s':>10}{'M words':>9}  test perplexity (mean over seeds)")
    table = []
    for name, found in rows.items():
        values = [cell["test"]["perplexity"] for cell in found]
        mean, half = statistics.mean(values), math.nan
        if len(values) > 1:
            half = STUDENT.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
        rate = statistics.mean(cell["words"] / cell["seconds"] for cell in found)
        million = statistics.mean(cell["words"] for cell in found) / 1e6
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name:<36}{found[0]['recurrent']:>12,}{rate:>10,.0f}{million:>9.1f}  {mean:.1f} ± {half:.1f} ({shown})")
        table.append({"cell": name, "words_per_s": rate, "mean": mean, "half_width": half, "cells": found})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("speed")
    one.add_argument("--sizes", nargs="+", default=["1024/128", "2048/256"])
    one.add_argument("--batch", type=int, default=128, help="lanes; 128 is one GPU's in f-lm")
    one.add_argument("--rounds", type=int, default=7)
    two = commands.add_parser("quality")
    two.add_argument("folder", type=Path)
    two.add_argument("--corpora", nargs="+", required=True, metavar="NAME=DIR")
    two.add_argument("--arms", nargs="+", choices=("time", "parameters"), default=["time", "parameters"])
    two.add_argument("--minutes", type=float, default=10.0, help="of a cell of the arm time")
    two.add_argument("--epochs", type=float, default=6.0, help="of a cell of the arm parameters")
    two.add_argument("--dropout", type=float, default=0.2)
    two.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    two.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    for command in (one, two):
        command.add_argument("--threads", type=int, default=None)
        command.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    results = speed(options) if options.command == "speed" else quality(options)
    out = options.out or Path(f"benchmarks/out/word_lm_{options.command}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(), "results": results,
    }  # fmt: skip
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{out}")


if __name__ == "__main__":
    main()
