"""Exact bits per byte over all held-out bytes, in constant memory. How bytes become lanes: ``evaluate.windows``."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.data.corpus import ByteStream
from overnight.evaluate.windows import HeldOutWindows
from overnight.metrics import bits_per_byte

BLOCK_BYTES = 10_240
"""Bytes of one block of the confidence interval: long beside the reach of what makes neighbouring bytes alike."""

CALL_BYTES = 8192
"""Bytes of one call of the model, over all lanes: projected inputs alone take 20 bytes a hidden unit for each."""


@dataclass(frozen=True)
class HeldOut:
    """Bits per byte of held-out bytes.

    Attributes:
        bits_per_byte: exact, over all bytes.
        low: lower end of the 95 % confidence interval; NaN if there are fewer than two blocks.
        high: upper end.
        bytes: how many were scored, over all ranks.
        seconds: wall time.
        lanes: that were read side by side, over all ranks.
    """

    bits_per_byte: float
    low: float
    high: float
    bytes: int
    seconds: float
    lanes: int


class BlockSums:
    """Sums over blocks of n contiguous bytes that cost y nats; those of lanes, and of ranks, add up.

    Attributes:
        values: float64 [6]: number of blocks, Σn, Σy, Σn², Σny, Σy².

    >>> sums = BlockSums()
    >>> sums.add(n=torch.tensor([8.0, 8.0]), y=torch.tensor([8.0, 16.0]).double() * math.log(2))
    >>> [round(value, 2) for value in sums.interval()]
    [1.5, 0.52, 2.48]
    """

    def __init__(self) -> None:
        self.values = torch.zeros(6, dtype=torch.float64)

    def add(self, n: Tensor, y: Tensor) -> None:
        """Add blocks; empty ones do not count."""
        n, y = n.double(), y.double()
        self.values += torch.stack([(n > 0).double(), n, y, n * n, n * y, y * y]).sum(1)

    def interval(self) -> tuple[float, float, float]:
        """Bits per byte, and the ends of its 95 % confidence interval.

        The interval is r ± 1.96 s, with r = Σy / Σn and the variance of a ratio of sums over K blocks,
        s² = K / (K - 1) · Σ(y - r n)² / (Σn)² (Cochran 1977, chapter 6). It says how far the value would move had
        other text of the same kind been held out, blocks taken as independent.
        """
        blocks, n, y, n2, ny, y2 = self.values.tolist()
        value = bits_per_byte(y, int(n))
        if blocks < 2:
            return value, math.nan, math.nan
        ratio = y / n
        squares = max(0.0, y2 - 2 * ratio * ny + ratio * ratio * n2)
        half = 1.96 * math.sqrt(blocks / (blocks - 1) * squares) / n / math.log(2)
        return value, value - half, value + half


def evaluate_heldout(
    model: nn.Module,
    stream: ByteStream,
    *,
    lanes: int = 64,
    length: int | None = None,
    reset: str = "shard",
    warm_up: int = 512,
    autocast: torch.dtype | None = None,
    device: torch.device | str | None = None,
    first: int = 0,
    count: int | None = None,
    add_over_ranks: Callable[[Tensor], Tensor] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Bits per byte = Σ -log₂ p(byte | the bytes before it) / N over a whole stream; every byte is scored exactly once.

    The first byte of the stream has nothing before it and costs 8 bits, whatever the model. One lane is plain
    sequential evaluation; more lanes are faster, and differ from it by what the model still knows of bytes that lie
    more than ``warm_up`` before the start of a lane.

    Args:
        model: called as ``model(ids_TB, carry, reset_TB) -> (logits_TBV, carry)``, carry None meaning zeros; it is in
            evaluation mode meanwhile.
        stream: usually ``Corpus(folder).split("valid")``.
        lanes: B, over all ranks; fewer where a lane would be shorter than ``BLOCK_BYTES``, since short blocks are
            alike to their neighbours and would make the interval too narrow.
        length: T, bytes a lane and call of the model. The memory grows with B·T, the result does not depend on it; None
            takes about ``CALL_BYTES`` a call.
        reset: zero the state at starts of ``shard``, of ``document``, or ``never``; as in training.
        warm_up: bytes that a lane reads before its own, without scoring them.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.
        device: where the model is; None looks at its first parameter.
        first, count: score only these of the lanes asked for, the share of one rank; it is empty if there are fewer.
        add_over_ranks: float64 sums of this rank, on ``device`` → their sums over ranks (an all-reduce); every rank
            then has the result over all lanes.
        on_progress: called after each window with the bytes of this rank that are scored and that there are to score.

    Raises:
        UserError: if the stream is empty or a setting is out of its range.

    Example:
        ``evaluate_heldout(model, Corpus("my-corpus").split("valid")).bits_per_byte``
    """
    began = time.perf_counter()
    if lanes > 1:
        lanes = max(1, min(lanes, len(stream) // BLOCK_BYTES))
    length = max(1, min(512, CALL_BYTES // max(lanes, 1))) if length is None else length
    windows = HeldOutWindows(stream, lanes=lanes, length=length, reset=reset, warm_up=warm_up, first=first, count=count)
    device = next(model.parameters()).device if device is None else torch.device(device)
    training = model.training
    model.eval()
    try:
        values = _score(model, windows, device, autocast, on_progress).values
    finally:
        model.train(training)
    sums = BlockSums()
    sums.values = values if add_over_ranks is None else add_over_ranks(values.to(device)).cpu()
    value, low, high = sums.interval()
    return HeldOut(value, low, high, int(sums.values[1]), time.perf_counter() - began, lanes)


@torch.no_grad()
def _score(
    model: nn.Module,
    windows: HeldOutWindows,
    device: torch.device,
    autocast: torch.dtype | None,
    on_progress: Callable[[int, int], None] | None,
) -> BlockSums:
    sums, carry, done = BlockSums(), None, 0
    n_B = y_B = torch.zeros(1, dtype=torch.float64)
    for window in windows:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            logits_TBV, carry = model(window.input_TB.to(device), carry, window.reset_TB.to(device))
        if not window.scored_TB.any():
            continue
        if logits_TBV.dtype != torch.float64:
            logits_TBV = logits_TBV.float()
        target = window.target_TB.to(device).flatten()
        nats = F.cross_entropy(logits_TBV.flatten(0, 1), target, reduction="none").cpu().double()
        nats_TB = nats.view(window.target_TB.shape).masked_fill(window.opening_TB, math.log(256))
        n_B = n_B + window.scored_TB.sum(0)
        y_B = y_B + nats_TB.masked_fill(~window.scored_TB, 0.0).sum(0)
        if n_B.max() >= BLOCK_BYTES:
            sums.add(n_B, y_B)
            n_B, y_B = torch.zeros_like(n_B), torch.zeros_like(y_B)
        if on_progress is not None:
            done += int(window.scored_TB.sum())
            on_progress(done, windows.bytes)
    sums.add(n_B, y_B)
    return sums
