"""Lanes that read a text: its bits, its features, what was known after every byte; and the readings that are kept.

Shape suffixes: T bytes, H hidden, N width of h, V = 256.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.serve.lanes import Array, LaneState


class Reading:
    """A text that is read: the bits of each of its bytes but the first, and its feature.

    Args:
        text: framed, at least one byte.
        layer: whose cell state is the feature, from the bottom; None leaves features out.
        pool: ``last``, ``mean`` or ``max`` of the cell states after each byte.

    Attributes:
        bits: float64 [T]; the first byte has nothing before it and counts 0.
        feature: [H], once the text is read; None if it was left out.
    """

    start: LaneState | None = None
    fixed: Mapping[int, float] = {}

    def __init__(self, text: bytes, layer: int | None = None, pool: str = "last") -> None:
        self.text, self.pool, self.layer = text, pool, layer or 0
        self.bits: NDArray[np.float64] = np.zeros(len(text))
        self.feature: Array | None = None
        self._read = 0
        self._featured = layer is not None

    @property
    def wants_states(self) -> bool:
        """The last byte's, or every byte's where they are pooled."""
        return self._featured and (self.pool != "last" or self._read == len(self.text) - 1)

    def give(self) -> int:
        """The byte to read next."""
        return self.text[self._read]

    def take(self, logits_V: Tensor, nats_V: Array, state: Sequence[tuple[Array, Array]]) -> bool:
        """Keep what is asked for of the byte just read."""
        if state:
            self._pool(state[self.layer][1])
        self._read += 1
        if self._read == len(self.text):
            if self.feature is not None and self.pool == "mean":
                self.feature = (self.feature / len(self.text)).astype(np.float32)
            _check(self.bits)
            return True
        self.bits[self._read] = nats_V[self.text[self._read]] / math.log(2)
        return False

    def _pool(self, c_H: Array) -> None:
        if self.pool == "mean":
            self.feature = c_H.astype(np.float64) if self.feature is None else self.feature + c_H
        elif self.pool == "max" and self.feature is not None:
            np.maximum(self.feature, c_H, out=self.feature)
        else:
            self.feature = c_H.copy()


class History:
    """A text that is read, and the whole state after every byte of it.

    Args:
        text: framed, at least one byte.
        shapes: (N, H) of every layer, bottom first.
        device: of the model.
        known: another history whose text begins alike, so that this one goes on from there.

    Attributes:
        bits: float64 [T], as of ``Reading``.
        h: of every layer [T, N].
        c: of every layer [T, H].
    """

    wants_states = True
    fixed: Mapping[int, float] = {}
    layer = 0

    def __init__(
        self, text: bytes, shapes: Sequence[tuple[int, int]], device: torch.device, known: "History | None" = None
    ) -> None:
        self.text = text
        self.bits: NDArray[np.float64] = np.zeros(len(text))
        self.h = [np.empty((len(text), n), dtype=np.float32) for n, _ in shapes]
        self.c = [np.empty((len(text), h), dtype=np.float32) for _, h in shapes]
        self.start: LaneState | None = None
        # The last byte is read again even if it is known: its successor's probabilities are not kept.
        self._read = 0 if known is None else max(0, _alike(text, known.text) - 1)
        if known is not None and self._read:
            for mine, theirs in zip([*self.h, *self.c], [*known.h, *known.c], strict=True):
                mine[: self._read] = theirs[: self._read]
            self.bits[: self._read + 1] = known.bits[: self._read + 1]
            last = self._read - 1
            self.start = [
                (torch.from_numpy(h[last]).to(device), torch.from_numpy(c[last]).to(device))
                for h, c in zip(self.h, self.c, strict=True)
            ]

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return sum(array.nbytes for array in (*self.h, *self.c))

    def give(self) -> int:
        """The byte to read next."""
        return self.text[self._read]

    def take(self, logits_V: Tensor, nats_V: Array, state: Sequence[tuple[Array, Array]]) -> bool:
        """Keep the states after the byte just read."""
        for (h_N, c_H), h_TN, c_TH in zip(state, self.h, self.c, strict=True):
            h_TN[self._read], c_TH[self._read] = h_N, c_H
        self._read += 1
        if self._read == len(self.text):
            _check(self.bits)
            return True
        self.bits[self._read] = nats_V[self.text[self._read]] / math.log(2)
        return False


class Kept:
    """The latest histories, so that a text that grows as it is typed is not read again from its beginning.

    Any thread may ask and keep.

    Args:
        room_bytes: of memory for all of them.
        most: of them; each trace is compared with every one.
    """

    def __init__(self, room_bytes: int, most: int = 64) -> None:
        self._room_bytes, self._most = room_bytes, most
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[bytes, History] = OrderedDict()

    def nearest(self, text: bytes) -> History | None:
        """The one that shares the most bytes at the beginning; None if none shares any."""
        with self._lock:
            held = list(self._held.values())
        best = max(held, key=lambda history: _alike(text, history.text), default=None)
        return best if best is not None and _alike(text, best.text) else None

    def keep(self, history: History) -> None:
        """Hold it as the latest, and let the oldest go where there is no room."""
        with self._lock:
            before = self._held.pop(history.text, None)
            self._held[history.text] = history
            self._held_bytes += history.nbytes - (0 if before is None else before.nbytes)
            while self._held_bytes > self._room_bytes or len(self._held) > self._most:
                self._held_bytes -= self._held.popitem(last=False)[1].nbytes


def _check(bits: NDArray[np.float64]) -> None:
    if not math.isfinite(bits.sum()):
        raise UserError("The model's output is not finite.", "Its training diverged: serve an earlier checkpoint.")


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    size = min(len(one), len(other))
    differ = np.frombuffer(one, np.uint8, size) != np.frombuffer(other, np.uint8, size)
    return int(differ.argmax()) if differ.any() else size
