"""A step of the net by the ratings alone against one over dense matrices, interleaved in one process.

    python -m benchmarks.recommender.speed [--items 20000] [--each 100] [--batches 128 512] [--repeats 5]

Both have the same weights, the same ratings and the same optimizer, and their losses and gradients are compared first.
The dense one is what the reference code does: a matrix of users × items as input, all outputs, a mask on the loss.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from overnight.data.ratings.batches import RatingBatch, gather
from overnight.data.ratings.table import RatingMatrix
from overnight.models.autoencoder import RatingAutoencoder
from overnight.tasks.recommendation import RecommendationTask


def ratings(users: int, items: int, each: int) -> RatingMatrix:
    """About so many ratings 1 to 5 of each user, popular items more often."""
    draw = np.random.default_rng(0)
    rows = [np.unique((draw.random(each) ** 2 * items).astype(np.int32)) for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    values = draw.integers(1, 6, int(offsets[-1])).astype(np.float32)
    return RatingMatrix(offsets, np.concatenate(rows), values, None, items)


def dense_loss(net: RatingAutoencoder, batch: RatingBatch) -> Tensor:
    """The sum of squared errors, by products with whole matrices."""
    row_N = torch.arange(batch.users).repeat_interleave(batch.offset_B.diff())
    x_Bn = torch.zeros(batch.users, net.items)
    x_Bn[row_N, batch.item_N] = batch.value_N
    z = net.activate(x_Bn @ net.input + net.input_bias)
    for layer in net.encoder:
        z = net.activate(layer(z))
    z = F.dropout(z, net.dropout, net.training)
    for layer in net.decoder:
        z = net.activate(layer(z))
    said_Bn = net.activate(F.linear(z, net.output, net.output_bias))
    return ((said_Bn - x_Bn).square() * (x_Bn != 0)).sum()


def seconds(work: Callable[[], None]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(items: int, each: int, users: int, repeats: int, dropout: float = 0.8) -> dict[str, float]:
    """Processor milliseconds of a pass (forward and backward), of an update, and of a step, and their ratios."""
    batch = gather(ratings(users, items, each), np.arange(users))
    torch.manual_seed(0)
    net = RatingAutoencoder(items, (512, 512, 1024), dropout=0.0)
    task = RecommendationTask(net)
    losses: dict[str, Callable[[], Tensor]] = {
        "sparse": lambda: task(batch, {}).total,
        "dense": lambda: dense_loss(net, batch),
    }
    found, grads = {}, {}
    for name, loss in losses.items():
        net.zero_grad()
        found[name] = loss()
        (found[name] / batch.ratings).backward()
        grads[name] = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found["sparse"], found["dense"], rtol=1e-4, atol=0.0)
    for sparse, dense in zip(grads["sparse"], grads["dense"], strict=True):
        assert (sparse - dense).norm() <= 1e-3 * dense.norm()
    del grads, found
    net.dropout = dropout
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)
    times: dict[str, list[float]] = {name: [] for name in ("sparse", "dense", "update")}
    for repeat in range(repeats + 1):
        for name, loss in losses.items():
            optimizer.zero_grad(set_to_none=True)
            spent = seconds(lambda loss=loss: (loss() / batch.ratings).backward())  # type: ignore[misc]
            updated = seconds(lambda: optimizer.step() and None)
            if repeat:
                times[name].append(1000 * spent)
                times["update"].append(1000 * updated)
    middle = {f"{name}_ms": median(all_ms) for name, all_ms in times.items()}
    steps = [middle[f"{name}_ms"] + middle["update_ms"] for name in ("dense", "sparse")]
    ratios = {"pass_ratio": middle["dense_ms"] / middle["sparse_ms"], "step_ratio": steps[0] / steps[1]}
    return {"users": users, "ratings": batch.ratings, "items": items, **middle, **ratios}


def main() -> int:
    """Measure and print a line of JSON a batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=100, help="ratings of a user")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512], help="users of a step")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for users in options.batches:
        found = compare(options.items, options.each, users, options.repeats)
        print(json.dumps({name: round(value, 2) for name, value in found.items()}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
