"""Lanes that write: a text is continued, byte after byte."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from overnight.evaluate.generate import START
from overnight.serve.lanes import Array, LaneState

Draw = Callable[[Tensor], Tensor]
"""Logits [1, V] → the byte that comes next, int64 [1]."""


@dataclass
class Writing:
    """A text that is continued; the draws are those of ``overnight generate`` with the same settings.

    Args:
        prompt: to continue; an empty one starts from a line feed.
        length: bytes to write.
        draw: of the next byte.
        emit: called with every byte written and the shown unit's cell state after it, None if no unit is shown.
        fixed: unit → the value that its cell state is set to, from the prompt's first byte on.
        layer: of the fixed and the shown unit, from the bottom.
        unit: to show.
    """

    prompt: bytes
    length: int
    draw: Draw
    emit: Callable[[int, float | None], None]
    fixed: Mapping[int, float]
    layer: int
    unit: int | None = None

    def __post_init__(self) -> None:
        self.start: LaneState | None = None
        self._text = self.prompt or START
        self._read = 0
        self._next = self._text[0]

    @property
    def wants_states(self) -> bool:
        """Where a unit is shown."""
        return self.unit is not None

    def give(self) -> int:
        """The byte to read next: of the prompt, then of what was drawn."""
        return self._next

    def take(self, logits_V: Tensor, nats_V: Array, state: Sequence[tuple[Array, Array]]) -> bool:
        """Emit the byte just read if it was drawn, and draw the next one."""
        if self._read >= len(self._text):
            self.emit(self._next, None if self.unit is None else float(state[self.layer][1][self.unit]))
        self._read += 1
        if self._read == len(self._text) + self.length:
            return True
        if self._read < len(self._text):
            self._next = self._text[self._read]
        else:
            self._next = int(self.draw(logits_V.unsqueeze(0)))
        return False
