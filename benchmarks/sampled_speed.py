"""Words a second of whole training steps: the full softmax against sampled ones, by model and batch.

    python benchmarks/sampled_speed.py [--batches 20 64 256] [--samples 1000 2000] [--threads N] [--out FILE.json]

Models with 10,000 words: one LSTM layer of 128 units (preset wsj-lstm), a plain recurrent layer of 200 (wsj-rnn), the
feed-forward model (wsj-fnn). All ways in one process, in rounds; medians. *plain* is what one would write without
overnight: torch's own layer, F.linear, cross_entropy and torch.optim.SGD over all rows, in fp32 and under autocast to
bf16. The larger the batch, the smaller the part of the recurrence in a step, whose calls cost the same for few lanes as
for many.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from word_lm import write_results

from overnight.models.neural_lm import FeedForwardLM, RecurrentLM
from overnight.models.word_lm import WordLM
from overnight.models.word_model import WordModel
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.optim.rows import RowSGD
from overnight.train.host import keep_freed_memory

WORDS, LENGTH, MAX_NORM = 10_000, 20, 5.0
Step = Callable[[], None]


class Plain(nn.Module):
    """torch's layer between an embedding and a full softmax."""

    def __init__(self, layer: nn.Module, width: int, units: int) -> None:
        super().__init__()
        self.embedding, self.layer, self.output = nn.Embedding(WORDS, width), layer, nn.Linear(units, WORDS)

    def loss(self, input_TB: Tensor, target_TB: Tensor) -> Tensor:
        h_TBH, _ = self.layer(self.embedding(input_TB))
        return F.cross_entropy(self.output(h_TBH.flatten(0, 1)), target_TB.flatten(), reduction="sum")


def models(samples: list[int]) -> dict[str, dict[str, Callable[[], nn.Module]]]:
    """Model → way → its maker."""
    outputs = {"full": "full", **{f"sampled {count:,}": f"sampled:{count}" for count in samples}}

    def ways(
        make: Callable[..., WordModel], peer: Callable[[], nn.Module] | None
    ) -> dict[str, Callable[[], nn.Module]]:
        found: dict[str, Callable[[], nn.Module]] = {} if peer is None else {"plain fp32": peer, "plain bf16": peer}
        for way, output in outputs.items():
            found[way] = partial(make, output=output, sparse=output != "full", seed=0)
        return found

    return {
        "LSTM, 128 units": ways(
            lambda **options: WordLM(WORDS, 128, 128, 1, **options), lambda: Plain(nn.LSTM(128, 128), 128, 128)
        ),
        "RNN, 200 units": ways(
            lambda **options: RecurrentLM(WORDS, 200, 200, **options), lambda: Plain(nn.RNN(200, 200), 200, 200)
        ),
        "feed-forward, 200 units": ways(lambda **options: FeedForwardLM(WORDS, 100, 200, **options), None),
    }


def training_step(model: nn.Module, lanes: int, bf16: bool) -> Step:
    """Forward, backward, clipping, plain SGD; of the step's rows where gradients are."""
    sparse = isinstance(model, WordModel)
    optimizer = (RowSGD if sparse else torch.optim.SGD)(model.parameters(), lr=0.1)
    draws = torch.Generator().manual_seed(0)
    ids = torch.rand(LENGTH + 1, lanes, generator=draws).mul(math.log(WORDS)).exp().long().clamp_(max=WORDS - 1)
    parameters = list(model.parameters())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.loss(ids[:-1], ids[1:])  # type: ignore[operator]
        ((loss[0] if isinstance(loss, tuple) else loss) / lanes).backward()
        clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure, print and return rows."""
    rows = []
    for lanes in options.batches:
        for name, makers in models(options.samples).items():
            steps = {}
            for way, make in makers.items():
                torch.manual_seed(0)
                steps[way] = training_step(make(), lanes, bf16=not way.endswith("fp32"))
            times: dict[str, list[float]] = {way: [] for way in steps}
            for kept in [False] * 2 + [True] * options.rounds:
                for way, step in steps.items():
                    began = time.perf_counter()
                    step()
                    if kept:
                        times[way].append(time.perf_counter() - began)
            rate = {way: LENGTH * lanes / statistics.median(values) for way, values in times.items()}
            print(f"\n{name}, {lanes} lanes × {LENGTH} words; words/s, × full, × plain fp32")
            for way, words in rate.items():
                plain = f"{words / rate['plain fp32']:>8.2f}" if "plain fp32" in rate else ""
                print(f"  {way:<16}{words:>10,.0f}{words / rate['full']:>8.2f}{plain}")
            rows.append({"model": name, "lanes": lanes, "words_per_s": rate, "seconds": times})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[20, 64, 256], help="lanes")
    parser.add_argument("--samples", nargs="+", type=int, default=[1000, 2000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/sampled_speed.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    write_results(options.out, speed(options))


if __name__ == "__main__":
    main()
