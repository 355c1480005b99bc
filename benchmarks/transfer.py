"""What a run's units know of sentiment: SST-2, customer reviews and IMDB, beside n-grams and published figures.

    OVERNIGHT_DATA=data python benchmarks/transfer.py RUN [RUN …] [--sets sst2 imdb] [--pools last mean]

The classifier and its settings are those of ``overnight classify train``. Customer reviews have no split: ten folds
(stratified, shuffled with seed 0), C chosen on a tenth of each fold's training texts. N-grams are fitted on the same
splits in the same process. The published figures are of 4096 units trained on 40 GB: SST-2 91.8 and IMDB 92.8. To
read IMDB's 50,000 long texts takes a while on a CPU; ``--cache`` keeps features.
"""

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import overnight
from overnight.data.labelled import Examples, LabelledSet, labelled_set
from overnight.evaluate.load import ByteModel
from overnight.evaluate.transfer import FeatureKind, TransferSettings, study

PUBLISHED = {"sst2": 91.8, "imdb": 92.8}
FOLDED = "customer_reviews"
FOLDS = 10
SETTINGS = TransferSettings(few_shot=False)


def features(model: ByteModel, examples: Examples | None, pool: str, cache: Path | None) -> Any:
    return None if examples is None else model.features(examples.texts, pool=pool, cache=cache)  # type: ignore[arg-type]


def whole(model: ByteModel, name: str, pool: str, cache: Path | None) -> dict[str, Any]:
    """A set with a split of its own."""
    data = labelled_set(name)
    start = time.perf_counter()
    found = [features(model, part, pool, cache) for part in (data.train, data.dev, data.test)]
    seconds = time.perf_counter() - start
    results = study(data, *found, digest=model.digest, kind=FeatureKind(pool=pool), settings=SETTINGS).results
    return {"results": results, "feature_seconds": seconds} | headline([results])


def folded(model: ByteModel, name: str, pool: str, cache: Path | None) -> dict[str, Any]:
    """A set without one: each tenth is the test split once."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    data = labelled_set(name)
    texts, labels = data.train.texts + data.test.texts, data.train.labels + data.test.labels
    every = Examples(texts, labels, name)
    start = time.perf_counter()
    rows = features(model, every, pool, cache)
    seconds = time.perf_counter() - start
    found = []
    for inside, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(texts, labels):
        train, dev = train_test_split(inside, test_size=0.1, stratify=np.array(labels)[inside], random_state=0)
        parts = [every.take(part) for part in (train, dev, test)]
        fold = LabelledSet(name, data.classes, *parts, "a fold")
        found.append(
            study(
                fold, *(rows[part] for part in (train, dev, test)),
                digest=model.digest, kind=FeatureKind(pool=pool), settings=SETTINGS,
            ).results
        )  # fmt: skip
    return {"results": found, "feature_seconds": seconds} | headline(found)


def headline(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over folds, %, and their standard deviations where there are several."""
    row: dict[str, Any] = {}
    for name, key in (("all_units", "all_units"), ("one_unit", "best_unit"), ("ngrams", "baseline")):
        values = [100 * results[key]["test_accuracy"] for results in found]
        row[name] = float(np.mean(values))
        row[f"{name}_sd"] = float(np.std(values)) if len(values) > 1 else None
    row["unit"] = [results["best_unit"]["unit"] for results in found]
    row["C"] = [results["all_units"]["C"] for results in found]
    row["texts"] = sum(sum(of.values()) for of in found[0]["data"]["counts"].values())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--sets", nargs="+", default=["sst2", FOLDED], help="also imdb and mpqa")
    parser.add_argument("--pools", nargs="+", default=["last"], choices=["last", "mean", "max"])
    parser.add_argument("--cache", type=Path, help="a folder that keeps features")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.json"))
    options = parser.parse_args()
    if "OVERNIGHT_DATA" not in os.environ:
        parser.error("set OVERNIGHT_DATA to the folder with the labelled sets")
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    print(f"{'run':<16} {'units':>6} {'set':<17} {'pool':<5} {'all':>6} {'one':>6} {'n-grams':>8} {'published':>10}")
    for run in options.runs:
        model = overnight.load(run)
        for name in options.sets:
            for pool in options.pools:
                row = (folded if name == FOLDED else whole)(model, name, pool, options.cache)
                print(
                    f"{run.name:<16} {model.model.hidden_size:>6,} {name:<17} {pool:<5} {row['all_units']:6.1f} "
                    f"{row['one_unit']:6.1f} {row['ngrams']:8.1f} {PUBLISHED.get(name, float('nan')):10.1f}",
                    flush=True,
                )
                rows.append({"run": run.name, "step": model.step, "set": name, "pool": pool, **row})
    record = {
        "date": date.today().isoformat(), "overnight": overnight.__version__, "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "rows": rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
