"""Dynamic evaluation of a byte model: bits per byte of one that learns from the bytes it has been scored on."""

import math
import time
from collections.abc import Callable

import torch
from torch import nn

from overnight.data.corpus import ByteStream
from overnight.evaluate.heldout import BLOCK_BYTES, HeldOut
from overnight.evaluate.scoring import Dynamic, block_sums, dynamic_scorer
from overnight.evaluate.windows import HeldOutWindows


def evaluate_dynamically(
    model: nn.Module,
    stream: ByteStream,
    dynamic: Dynamic,
    *,
    lanes: int = 1,
    reset: str = "shard",
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Bits per byte of a whole stream, every byte scored once before the model learns from it (``dynamic_scorer``).

    Args:
        model: gives logits as a ``ByteLM`` does; it has its own weights again afterwards.
        stream: usually ``Corpus(folder).split("test")``.
        dynamic: rate, decay and bytes of a step.
        lanes: 1 is the published order; more are read side by side, and each step learns from all of them.
        reset, autocast, on_progress: see ``overnight.evaluate.heldout.evaluate_heldout``.

    Raises:
        UserError: if the stream is empty or a setting is out of its range.
    """
    began = time.perf_counter()
    windows = HeldOutWindows(stream, lanes=lanes, length=dynamic.length, reset=reset, warm_up=0)
    device = next(model.parameters()).device
    done, training = 0, model.training

    def scored(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, windows.bytes)

    model.eval()
    try:
        with dynamic_scorer(model, device, lr=dynamic.lr, decay=dynamic.decay, autocast=autocast) as score:
            sums = block_sums(windows, score, BLOCK_BYTES, opening_nats=math.log(256), on_scored=scored)
    finally:
        model.train(training)
    value, low, high = sums.interval()
    return HeldOut(value, low, high, len(stream), time.perf_counter() - began, lanes)
