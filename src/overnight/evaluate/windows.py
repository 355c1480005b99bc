"""Held-out bytes as windows of lanes, so that every byte is scored exactly once.

The N bytes are cut into B lanes: lane b scores the bytes from ⌊Nb/B⌋ up to ⌊N(b+1)/B⌋, so lanes differ by at most one
byte and none is dropped. A lane reads ``warm_up`` + 1 bytes before its first from a zero state, without scoring them;
its first byte is then predicted like every other. The first byte of the stream has nothing before it: it is marked, and
the state is zero when it is read. The first byte of a shard or document is predicted from the end of the one before,
and the state is reset when that byte is read, as in training.

Shape suffixes: T time, B lanes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from overnight.data.sharded import TokenStream
from overnight.errors import UserError


@dataclass(frozen=True)
class Window:
    """The next T bytes of every lane; [T, B] each.

    Attributes:
        input_TB: int64 bytes.
        target_TB: the byte after each input.
        reset_TB: True where the state is zeroed before reading that byte.
        scored_TB: True where the target counts.
        opening_TB: True where the target is the first byte of the stream.
    """

    input_TB: Tensor
    target_TB: Tensor
    reset_TB: Tensor
    scored_TB: Tensor
    opening_TB: Tensor


class HeldOutWindows:
    """An iterable over the windows of a stream.

    Args:
        stream: the bytes.
        lanes: B, over all ranks.
        length: T, bytes a lane and window; the last window is shorter.
        reset: zero the state at starts of ``shard``, of ``document`` (words: ``sentence``), or ``never``.
        warm_up: bytes that a lane reads unscored before the one that its first byte is predicted from.
        first, count: only these lanes, the share of one rank; None takes the rest.

    Raises:
        UserError: if the stream is empty or a setting is out of its range.

    Example:
        >>> class Hello:
        ...     def resets(self, unit):
        ...         return np.array([0])
        ...     def __len__(self):
        ...         return 5
        ...     def read(self, start, length):
        ...         return np.frombuffer(b"hello", np.uint8)[np.arange(start, start + length) % 5]
        >>> window, = HeldOutWindows(Hello(), lanes=2, length=8, warm_up=0)
        >>> [bytes(lane[scored].tolist()) for lane, scored in zip(window.target_TB.T, window.scored_TB.T)]
        [b'he', b'llo']
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        lanes: int = 64,
        length: int = 512,
        reset: str = "shard",
        warm_up: int = 512,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        if lanes < 1 or length < 1 or warm_up < 0:
            raise UserError(
                f"{lanes} lanes of {length} {stream.unit} with {warm_up} to warm up cannot be read.",
                "Lanes and length must be at least 1, warm_up at least 0.",
            )
        resets = stream.resets(reset)
        if not len(stream):
            raise UserError(
                f"There are no held-out {stream.unit} to evaluate.", "Choose another split, or hold out more text."
            )
        size = len(stream)
        last = lanes if count is None else min(first + count, lanes)
        self._begin_B = np.array([size * lane // lanes for lane in range(first, last)], dtype=np.int64)
        self._size_B = np.array([size * (lane + 1) // lanes for lane in range(first, last)]) - self._begin_B
        self._stream, self._length, self._warm_up = stream, length, warm_up
        # Byte 0 always resets: what lanes near the beginning read before it, to warm up, is the end of the stream.
        self._resets = np.unique(np.concatenate([np.zeros(1, dtype=np.int64), resets]))

    @property
    def bytes(self) -> int:
        """How many are scored."""
        return int(self._size_B.sum())

    def __iter__(self) -> Iterator[Window]:
        if not self.bytes:
            return
        columns = self._warm_up + int(self._size_B.max())
        for column in range(0, columns, self._length):
            yield self._window(column, min(self._length, columns - column))

    def _window(self, column: int, length: int) -> Window:
        start_B = self._begin_B - 1 - self._warm_up + column
        bytes_BT = np.stack([self._stream.read(int(start), length + 1) for start in start_B])
        at_T1 = np.arange(length)[:, None]
        input_at_TB = start_B + at_T1
        inside_TB = column + at_T1 - self._warm_up
        position_TB = input_at_TB % len(self._stream)
        nearest_TB = np.searchsorted(self._resets, position_TB, side="right") - 1
        tokens_TB = torch.from_numpy(bytes_BT.T.astype(np.int64))
        return Window(
            tokens_TB[:-1],
            tokens_TB[1:],
            torch.from_numpy(self._resets[nearest_TB] == position_TB),
            torch.from_numpy((inside_TB >= 0) & (inside_TB < self._size_B)),
            torch.from_numpy(input_at_TB == -1),
        )
