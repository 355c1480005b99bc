"""A random order that is computed where it is needed, and never held."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ROUNDS = 6


class Shuffle:
    """A pseudo-random permutation of 0 … size - 1 in constant memory: a Feistel network over the next power of four,
    walked until it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        size: how many there are, at least 1.
        seed: numbers that decide the order.

    >>> order = Shuffle(10, (0, 1))
    >>> sorted(order(np.arange(10)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self._size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.default_rng(seed).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def __call__(self, places_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What stands at places of the order, int64 [N]."""
        found = self._walk(places_N.astype(np.uint64))
        outside = found >= self._size
        while outside.any():
            found[outside] = self._walk(found[outside])
            outside = found >= self._size
        return found.astype(np.int64)

    def _walk(self, x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            # the finisher of MurmurHash3: every bit of the sum moves every bit of the hash
            mixed = right + key
            for multiplier in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
                mixed = (mixed ^ (mixed >> np.uint64(33))) * multiplier
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(33))) & self._mask)
        out: npt.NDArray[np.uint64] = (left << self._half) | right
        return out
