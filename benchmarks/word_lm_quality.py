"""Test perplexity of dense, factorized (F-LSTM) and grouped (G-LSTM) word models, at equal time and equal parameters.

    python benchmarks/word_lm_quality.py FOLDER --corpora ptb=DIR wsj=DIR [--epochs 0.5] [--seeds 0 1]

One setting for all: two layers at BIGLSTM's proportions (units : projection = 8 : 1, rank = units / 16), trained with
the full softmax, Adam with a rate that rises over 100 updates and falls linearly to 0, and no dropout; perplexity of
the whole test split. (SGD and f-lm's Adagrad need several times the words to get beyond a table of word counts, and
so does a sampled softmax, whose rare rows have been drawn a few times only.) The state is zeroed before each
sentence: where it never is, cells of a young model run far off over thousands of words, it grows into that, and is
worth nothing from a state of zeros. Factors start as the singular vectors of a dense map (svd): drawn independently,
they are not past word counts when dense is.

* *rate*: of three, by the perplexity of the first corpus's validation split (20,000 words) after two fifths of
  the words, on a seed that is scored nowhere: the same small budget for every map, at the dense model's units.
* *time*: the same units; each map reads as many words as it can in the time in which dense reads its own. The ratios
  are measured here, in rounds, in seconds of CPU, and kept in FOLDER/pace.json; what else the machine does cancels.
* *parameters*: as many recurrent parameters as dense, to 2 %, by more units, and the same words.

Every cell is a run folder, so that a benchmark that was interrupted goes on. The interval (95 %) is that of the spread
of seeds in the logarithm, pooled over all cells: two seeds of one cell say next to nothing alone.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from word_lm import recurrent_parameters, write_results

from overnight.data.words.corpus import WordCorpus
from overnight.evaluate.words import evaluate_words, load_word_model
from overnight.models.word_lm import WordLM
from overnight.optim.rows import RowAdam
from overnight.recipes.word_lm import word_lm
from overnight.schedule import linear
from overnight.train.host import keep_freed_memory
from overnight.train.launch import Options, train

UNITS, WIDTH, LANES, LENGTH, OUTPUT = 1024, 128, 32, 20, "full"
"""Units and width of embedding and projection of the dense model, lanes and words of an update, what is trained."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
"""97.5 % quantile of Student's t, by degrees of freedom from 1."""


@dataclass(frozen=True)
class Shape:
    """A gate map and its units."""

    kind: str
    units: int

    @property
    def gates(self) -> str:
        return f"factorized:{self.units // 16}" if self.kind == "factorized" else self.kind

    @property
    def parameters(self) -> int:
        return recurrent_parameters(self.gates, self.units, WIDTH)

    def __str__(self) -> str:
        return f"{self.gates.replace(':', '')}-{self.units}"


def as_many(kind: str) -> Shape:
    """Units, a multiple of 64, with as many recurrent parameters as the dense model's."""
    target = Shape("dense", UNITS).parameters
    return min((Shape(kind, u) for u in range(UNITS, 4 * UNITS, 64)), key=lambda s: abs(s.parameters - target))


def pace(kinds: list[str], rounds: int = 7) -> dict[str, float]:
    """Words per second of CPU of a training step, by map, at the dense model's units."""
    ids = torch.rand(LENGTH + 1, LANES, generator=torch.Generator().manual_seed(0)).mul(math.log(9999)).exp().long()
    models, times = {}, {kind: list[float]() for kind in kinds}
    for kind in kinds:
        gates = Shape(kind, UNITS).gates
        model = WordLM(10_000, WIDTH, UNITS, gates=gates, projection=WIDTH, output=OUTPUT, sparse=True)
        models[kind] = model, RowAdam(model.parameters(), lr=0.001)
    for measured in [False] + [True] * rounds:
        for kind, (model, optimizer) in models.items():
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                total, _ = model.loss(ids[:-1], ids[1:])
            (total / LANES).backward()
            nn.utils.clip_grad_norm_(model.recurrent.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            if measured:
                times[kind].append(time.process_time() - began)
    return {kind: LANES * LENGTH / statistics.median(values) for kind, values in times.items()}


def make(folder: Path, corpus: Path, shape: Shape, lr: float, epochs: float, seed: int, split: str) -> dict[str, Any]:
    """Train and score a cell, unless that was done."""
    path = folder / f"{split}.json"
    if not path.is_file():
        run = word_lm(
            corpus, gates=shape.gates, output=OUTPUT, batch_size=LANES, length=LENGTH, optimizer="row-adam", lr=lr,
            epochs=epochs, dropout=0.0, reset="sentence", evaluations=0, seed=seed,
            factor_init="svd" if shape.kind == "factorized" else "independent",
        )  # fmt: skip
        # every map by its own rule: one range for 1,024 and for 3,072 units would favour one of them
        sizes = {"hidden_size": shape.units, "projection": WIDTH, "embedding_size": WIDTH}
        for setting, value in {**sizes, "init_range": None, "forget_bias": 1.0}.items():
            run = run.with_setting(f"model.{setting}={value}")
        run = replace(
            run, schedule=partial(linear, warmup_samples=100 * LANES), threads=torch.get_num_threads(), log_every=100
        )
        train(run, folder, Options(device="cpu", quiet=True, resume=(folder / "run.json").is_file()))
        loaded, data = load_word_model(folder, "last", "cpu"), WordCorpus(corpus)
        stream = data.split(split) if split == "test" else data.split(split).head(20_000)
        score = evaluate_words(loaded.model, stream, eos=data.eos, vocab_size=data.vocab_size, reset="sentence")
        summary = json.loads((folder / "summary.json").read_text())
        result = {
            "gates": shape.gates, "units": shape.units, "recurrent_parameters": shape.parameters, "seed": seed,
            "lr": lr, "words": summary["tokens"], "seconds": summary["seconds"], split: vars(score),
        }  # fmt: skip
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{folder.name}: lr {lr:g}, {summary['tokens']:,} words, {split} {score.perplexity:.2f}", flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rate(options: argparse.Namespace, kind: str) -> float:
    """The best of the rates on the validation split of the first corpus."""
    name, _, corpus = options.corpora[0].partition("=")
    shape, found = Shape(kind, UNITS), {}
    for lr in options.rates:
        folder = options.folder / f"rate-{name}-{shape}-{lr:g}"
        found[lr] = make(folder, Path(corpus), shape, lr, 0.4 * options.epochs, 100, "valid")["valid"]["perplexity"]
    best: float = min(found, key=lambda lr: found[lr])
    return best


def cells(options: argparse.Namespace, ratio: dict[str, float]) -> Iterator[tuple[str, str, Path, int, Shape, float]]:
    """Row, name of the run folder, corpus, seed, shape, epochs; the seeds of one corpus one after another."""
    for given in options.corpora:
        name, _, corpus = given.partition("=")
        for seed in options.seeds:
            for kind in options.maps:
                arms = [("time", Shape(kind, UNITS), ratio[kind]), ("parameters", as_many(kind), 1.0)]
                for arm, shape, factor in [("both", Shape(kind, UNITS), 1.0)] if kind == "dense" else arms:
                    row = f"{name}-{arm}-{shape}"
                    yield row, f"{row}-{seed}", Path(corpus), seed, shape, options.epochs * factor


def show(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Print a row for each map and arm: perplexities, geometric mean, interval, and the ratio to dense."""
    logs = {row: [math.log(cell["test"]["perplexity"]) for cell in found] for row, found in rows.items()}
    degrees = sum(len(values) - 1 for values in logs.values())
    spread = math.sqrt(sum(statistics.variance(v) * (len(v) - 1) for v in logs.values() if len(v) > 1) / degrees)
    quantile = STUDENT[min(degrees, len(STUDENT)) - 1]
    dense = {row.partition("-")[0]: statistics.mean(v) for row, v in logs.items() if "-dense-" in row}
    count = {row.partition("-")[0]: len(v) for row, v in logs.items() if "-dense-" in row}
    print(f"\nseeds differ by {100 * spread:.1f} % (standard deviation, pooled, {degrees} degrees of freedom)")
    print(f"{'cell':<32}{'parameters':>11}{'rate':>6}{'M words':>9}{'perplexity':>12}{'against dense, %':>22}  seeds")
    table = []
    for row, found in rows.items():
        name, values = row.partition("-")[0], logs[row]
        change = statistics.mean(values) - dense[name]
        half = quantile * spread * math.sqrt(1 / len(values) + 1 / count[name])
        shown = ", ".join(f"{math.exp(value):.1f}" for value in values)
        mean, million = math.exp(statistics.mean(values)), statistics.mean(cell["words"] for cell in found) / 1e6
        against = "" if "-dense-" in row else f"{100 * math.expm1(change):+.1f} ± {100 * half:.1f}"
        print(
            f"{row:<32}{found[0]['recurrent_parameters']:>11,}{found[0]['lr']:>6g}{million:>9.2f}{mean:>12.1f}"
            f"{against:>22}  {shown}"
        )
        table.append({"cell": row, "perplexity": mean, "log_ratio": change, "half_width": half, "cells": found})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpora", nargs="+", required=True, metavar="NAME=DIR")
    kinds = ["dense", "factorized", "grouped:2", "grouped:4", "grouped:8"]
    parser.add_argument("--maps", nargs="+", default=["dense", "factorized", "grouped:4"], choices=kinds)
    parser.add_argument("--epochs", type=float, default=0.5, help="of dense, and of the arm parameters")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.001, 0.002, 0.004])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/word_lm_quality.json"))
    options = parser.parse_args()
    if "dense" not in options.maps or len(options.seeds) < 2:
        parser.error("dense is what the others are compared with, by at least two seeds")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "pace.json"
    speeds = json.loads(kept.read_text()) if kept.is_file() else {}
    if any(kind not in speeds for kind in options.maps):
        speeds = pace(options.maps)
        kept.write_text(json.dumps(speeds, indent=1) + "\n", encoding="utf-8")
    ratio = {kind: speeds[kind] / speeds["dense"] for kind in options.maps}
    print("words per second of CPU:", {kind: f"{speeds[kind]:,.0f} ({ratio[kind]:.2f} ×)" for kind in options.maps})
    rows: dict[str, list[dict[str, Any]]] = {}
    for row, name, corpus, seed, shape, epochs in cells(options, ratio):
        cell = make(options.folder / name, corpus, shape, rate(options, shape.kind), epochs, seed, "test")
        rows.setdefault(row, []).append(cell)
    write_results(options.out, {"pace": speeds, "table": show(rows)})


if __name__ == "__main__":
    main()
