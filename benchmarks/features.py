"""Texts a second of feature extraction: one text at a time against many side by side, in one process.

    python benchmarks/features.py FILE [FILE ...] [--sizes 256 1024] [--texts 4096] [--alone 32] [--rounds 3]

FILE holds texts (txt, csv, tsv, jsonl, parquet, also .gz); without any, SST-2's training sentences and IMDB's test
reviews in the folder that OVERNIGHT_DATA names. Models have random weights, which their speed does not depend on. Three
ways take turns, every round on other texts drawn at random:

    alone    `model.hidden` on one text after another, in float32: what a script would do
    stepper  the same with weights laid out once (`ByteReader` with one lane), in float32
    ours     `ByteModel.features`, in the precision that `auto` picks here, sorted and side by side

A rate is texts over seconds, median of the rounds; the ratio is that of the medians. Seconds are those of the processor
where there is one thread (--threads 1, the default), so that other work on the machine counts as little as possible,
and of the clock otherwise. The texts that the first reads are read by the last, too: how far apart their features are
is in the table, the largest difference of a unit and the smallest correlation of a text.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overnight.data.labelled import find_source, read_records
from overnight.evaluate.extraction import cell_states
from overnight.evaluate.framing import frame
from overnight.evaluate.load import ByteModel
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_reader import ByteReader
from overnight.train.precision import choose_precision

DATA = Path(os.environ.get("OVERNIGHT_DATA", "."))
DEFAULTS = [DATA / "sst2" / "train_binary_sent.csv", DATA / "imdb" / "test.tsv.gz"]
FIELDS = ("sentence", "text", None)


def texts_of(path: Path) -> list[str]:
    """All texts of a file."""
    for field in FIELDS:
        try:
            return [record.text for record in read_records(find_source(path), text_field=field, labelled=False)]
        except Exception:
            if field is None:
                raise
    return []


def alone(model: ByteModel, texts: list[str]) -> np.ndarray:
    """The published code's way with our model: one text, one call."""
    rows = []
    for text in texts:
        ids_TB = torch.frombuffer(bytearray(frame(text)), dtype=torch.uint8).long().unsqueeze(1)
        _, carry = model.model.hidden(ids_TB.to(model.device))
        rows.append(carry["c"][0, -1].cpu().numpy())
    return np.stack(rows)


def measure(model: ByteModel, texts: list[str], options: argparse.Namespace, draw: random.Random) -> dict[str, Any]:
    """Rates of the three ways, and how far apart the first and the last are."""
    clock = time.process_time if options.threads == 1 and model.device.type == "cpu" else time.perf_counter
    one_lane = ByteReader(model.model)
    ways: dict[str, tuple[int, Callable[[list[str]], Any]]] = {
        "alone": (options.alone, lambda some: alone(model, some)),
        "stepper": (options.alone, lambda some: list(cell_states(one_lane, map(frame, some), lanes=1))),
        "ours": (options.texts, lambda some: model.features(some, lanes=options.lanes)),
    }
    for _, way in ways.values():
        way(draw.sample(texts, 2))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (count, way) in ways.items():
            some = draw.sample(texts, min(count, len(texts)))
            began = clock()
            way(some)
            rates[name].append(len(some) / (clock() - began))
    some = draw.sample(texts, options.alone)
    exact, ours = alone(model, some), model.features(some)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in rates.items()}
    found["ratio"] = found["ours"] / found["alone"]
    found["largest_difference"] = float(np.abs(exact - ours).max())
    found["smallest_correlation"] = min(float(np.corrcoef(a, b)[0, 1]) for a, b in zip(exact, ours, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULTS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--texts", type=int, default=4096, help="texts of a round, side by side")
    parser.add_argument("--alone", type=int, default=32, help="texts of a round, one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/features.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    precision = choose_precision(device)
    print(f"ours in {precision.name} ({precision.reason}), {options.lanes} lanes, {options.threads} thread(s)")
    results = []
    for path in options.files:
        texts = texts_of(path)
        length = statistics.mean(len(frame(text)) for text in texts)
        print(f"\n{path.parent.name}/{path.name}: {len(texts):,} texts, {length:,.0f} bytes each on average")
        for hidden in options.sizes:
            torch.manual_seed(0)
            network = ByteLM(hidden).to(device).eval().requires_grad_(False)
            found = measure(ByteModel(network, device, {}, 0, None), texts, options, random.Random(0))
            print(
                f"  {hidden:>5} units  alone {found['alone']:8.1f}  stepper {found['stepper']:8.1f}  "
                f"ours {found['ours']:9.1f} texts/s  {found['ratio']:5.1f}x  "
                f"difference {found['largest_difference']:.4f}, correlation {found['smallest_correlation']:.5f}"
            )
            results.append({"file": path.name, "mean_bytes": length, "hidden_size": hidden, **found})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "torch": torch.__version__, "threads": options.threads,
        "device": str(device), "cpu": platform.processor() or platform.machine(), "precision": precision.name,
        "lanes": options.lanes, "results": results,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
