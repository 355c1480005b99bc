"""Generated ratings at the size of the Netflix Prize: prepared, and trained on, in processes whose memory is watched.

    python -m benchmarks.recommender.large FOLDER [--ratings 1e8] [--users 480000] [--items 17770] [--steps 20]

Writes FOLDER/ratings.csv in random order, prepares FOLDER/corpus by time, and trains the small preset's net on it for
some steps. Each stage is a process of its own; what is printed is its CPU seconds, its peak of resident memory, and the
peak without pages of mapped files, which the system may take back at any time. A stage that is done is not done again,
so a stopped benchmark goes on; 100 M ratings need 12 GB of disk.
"""

import argparse
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Stage = Callable[[Path, argparse.Namespace], dict[str, float]]
ROWS = 1 << 20


def generate(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A csv file of users, items, ratings 1 to 5 and times; some users and items much more often."""
    import pyarrow as pa
    from pyarrow import csv

    draw = np.random.default_rng(0)
    kinds = {"userId": pa.int32(), "movieId": pa.int32(), "rating": pa.int8(), "timestamp": pa.int64()}
    aside = folder / "ratings.csv.partial"
    with csv.CSVWriter(aside, pa.schema(list(kinds.items()))) as writer:
        for at in range(0, int(options.ratings), ROWS):
            rows = min(ROWS, int(options.ratings) - at)
            columns = (
                (draw.random(rows) ** 2 * options.users).astype(np.int32),
                (draw.random(rows) ** 3 * options.items).astype(np.int32),
                draw.integers(1, 6, rows).astype(np.int8),
                draw.integers(950_000_000, 1_150_000_000, rows),
            )
            writer.write_batch(pa.record_batch([pa.array(column) for column in columns], names=list(kinds)))
    aside.rename(folder / "ratings.csv")
    return {"gigabytes": (folder / "ratings.csv").stat().st_size / 1e9}


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """As overnight prepare --ratings --split time --duplicates last does; a generated pair may come twice."""
    from overnight.data.ratings.preparation import prepare_ratings
    from overnight.data.ratings.settings import RatingSettings

    settings = RatingSettings(split="time", duplicates="last", test=0.1)
    manifest = prepare_ratings(folder / "ratings.csv", folder / "corpus", settings)
    kept = {name: about["ratings"] for name, about in manifest["splits"].items() if about["ratings"]}
    size = sum(file.stat().st_size for file in (folder / "corpus").rglob("*") if file.is_file())
    return {**kept, "gigabytes": size / 1e9}


def train(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Steps of the small preset's net, at its batch; the digest of the ratings is made first, as in every run."""
    import torch

    from overnight.data.ratings.batches import RatingBatches
    from overnight.data.ratings.loading import load_ratings
    from overnight.models.autoencoder import RatingAutoencoder
    from overnight.recipes.recommender import PRESETS
    from overnight.tasks.recommendation import RecommendationTask

    torch.set_num_threads(1)
    preset, ratings = PRESETS["small"], load_ratings(folder / "corpus").train
    net = RatingAutoencoder(ratings.item_count, preset.hidden, biases=True, mean=ratings.mean, normalized=True,
                            implicit=preset.implicit, last_activation=False)  # fmt: skip
    task = RecommendationTask(net, score="hidden")
    optimizer = torch.optim.AdamW(net.parameters(), lr=preset.lr)
    batches = RatingBatches(ratings, preset.batch_size, hide=preset.hide)
    began, losses = time.process_time(), []
    for step in range(options.steps):
        loss = task(batches.at(step), {})
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(loss.total.item() / loss.count)
    spent = (time.process_time() - began) / options.steps
    return {"first_mse": losses[0], "last_mse": losses[-1], "cpu_ms_per_step": 1000 * spent}


STAGES: dict[str, Stage] = {"generate": generate, "prepare": prepare, "train": train}


def watched(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run a stage and write what it took; in a process of its own."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], status("RssAnon"))
            done.wait(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    found = STAGES[name](folder, options)
    done.set()
    thread.join()
    told = {"stage": name, "ratings": int(options.ratings), **found, "cpu_seconds": time.process_time(),
            "peak_mb": status("VmHWM"), "peak_own_mb": peak[0]}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


def status(name: str) -> float:
    """MB of this process, as the system counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def main() -> int:
    """Run what is missing, stage by stage, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratings", type=float, default=1e8)
    parser.add_argument("--users", type=int, default=480_000)
    parser.add_argument("--items", type=int, default=17_770)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in STAGES:
        result = options.folder / f"{name}.json"
        if not result.is_file():
            process = multiprocessing.get_context("spawn").Process(target=watched, args=(name, options.folder, options))
            process.start()
            process.join()
            if process.exitcode:
                return 1
        print(result.read_text().strip(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
