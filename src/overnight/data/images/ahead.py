"""Batches that are made ahead of time, while the device computes."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Key = tuple[int, int, int | None]
"""Step, first and count of a call."""


class Ahead:
    """Batches whose next one is made in the background.

    Which comes next is learnt: after a micro-batch of a step comes what came after it in the step before. What is asked
    for in another order is made when it is asked for, so the batches are the same in any case.

    Args:
        batches: an object with ``at(step, first, count)``, ``steps_per_epoch`` and ``digest``.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.steps_per_epoch, self.digest = batches.steps_per_epoch, batches.digest
        self._follows: dict[tuple[int, int | None], tuple[int, int, int | None]] = {}
        self._last: Key | None = None
        self._made: tuple[Key, Future[Any]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def at(self, step: int, first: int = 0, count: int | None = None) -> Any:
        """What the batches give for this call."""
        key = (step, first, count)
        if self._last is not None:
            self._follows[self._last[1:]] = (step - self._last[0], first, count)
        made, self._made, self._last = self._made, None, key
        found = made[1].result() if made is not None and made[0] == key else self.batches.at(*key)
        if (first, count) in self._follows:
            steps, *share = self._follows[first, count]
            after: Any = (step + steps, *share)
            self._made = (after, self._thread.submit(self.batches.at, *after))
        return found
