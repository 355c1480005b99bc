"""Texts that are read or written side by side, one byte of each a step; each comes and goes when it wants.

A batch is not filled up and then emptied: at every step those that are done leave and those that wait come in, so a
long text holds up nobody and a short one does not wait for it.

Shape suffixes: B lanes, H hidden, N width of h, V = 256.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper
from overnight.nn.stepping import LaneFixed

Array = NDArray[np.float32]
LaneState = list[tuple[Tensor, Tensor]]
"""(h [N], c [H]) of every layer, bottom first."""


class Lane(Protocol):
    """One text in the batch."""

    start: LaneState | None
    """What is known before the first byte; None is the zero state."""

    fixed: Mapping[int, float]
    """Unit → the value that its cell state is set to in every step, in the layer ``layer``."""

    layer: int
    """Whose units ``fixed`` names, from the bottom."""

    @property
    def wants_states(self) -> bool:
        """Whether ``take`` looks at the states."""
        ...

    def give(self) -> int:
        """The byte to read next."""
        ...

    def take(self, logits_V: Tensor, nats_V: Array, state: Sequence[tuple[Array, Array]]) -> bool:
        """What the model makes of the byte; True if the lane is done.

        Args:
            logits_V: for the byte after it.
            nats_V: -ln p of each value of that byte.
            state: (h, c) of every layer after it, views that the next step overwrites; empty unless wanted.
        """
        ...


@dataclass
class Batch:
    """The lanes of a step and their state.

    Args:
        model: in evaluation mode.
        lanes: those in the batch.
    """

    model: ByteLM
    lanes: list[Lane] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stepper = ByteStepper(self.model)
        self._zero = self._stepper.state(self.model.initial_carry(1))
        self._state = [(h_BN[:0], c_BH[:0]) for h_BN, c_BH in self._zero]
        self._device = self.model.output.weight.device
        self._fixed: dict[int, LaneFixed] = {}

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(N, H) of every layer, bottom first."""
        return [(h_BN.shape[1], c_BH.shape[1]) for h_BN, c_BH in self._zero]

    def change(self, leave: Collection[int], come: Sequence[Lane]) -> None:
        """Let lanes go, by their place in the batch, and others in after those that stay."""
        if not leave and not come:
            return
        stay = [index for index in range(len(self.lanes)) if index not in leave]
        chosen = torch.tensor(stay, dtype=torch.long, device=self._device)
        new = []
        for index, (h_BN, c_BH) in enumerate(self._state):
            starts = [self._zero[index] if lane.start is None else lane.start[index] for lane in come]
            new.append(
                (
                    torch.cat([h_BN[chosen], *(h.view(1, -1) for h, _ in starts)]),
                    torch.cat([c_BH[chosen], *(c.view(1, -1) for _, c in starts)]),
                )
            )
        self._state = new
        self.lanes = [self.lanes[index] for index in stay] + list(come)
        self._fixed = self._fixed_units()

    @torch.no_grad()
    def step(self) -> dict[int, UserError | None]:
        """Read one byte of every lane; returns the places of those that are done, which stay until ``change``.

        A lane that cannot go on is done too, with its reason.
        """
        ids_B = torch.tensor([lane.give() for lane in self.lanes], device=self._device)
        logits_BV, self._state = self._stepper.step(ids_B, self._state, self._fixed)
        nats_BV = torch.log_softmax(logits_BV, dim=1).neg_().cpu().numpy()
        states: list[tuple[Array, Array]] = []
        if any(lane.wants_states for lane in self.lanes):
            states = [(h_BN.float().cpu().numpy(), c_BH.float().cpu().numpy()) for h_BN, c_BH in self._state]
        done: dict[int, UserError | None] = {}
        for index, lane in enumerate(self.lanes):
            state = [(h_BN[index], c_BH[index]) for h_BN, c_BH in states] if lane.wants_states else []
            try:
                if lane.take(logits_BV[index], nats_BV[index], state):
                    done[index] = None
            except UserError as error:
                done[index] = error
        return done

    def _fixed_units(self) -> dict[int, LaneFixed]:
        found: dict[int, list[tuple[int, int, float]]] = {}
        for index, lane in enumerate(self.lanes):
            for unit, value in lane.fixed.items():
                found.setdefault(lane.layer, []).append((index, unit, value))
        result: dict[int, LaneFixed] = {}
        for layer, entries in found.items():
            lanes, units, values = zip(*entries, strict=True)
            result[layer] = (
                torch.tensor(lanes, device=self._device),
                torch.tensor(units, device=self._device),
                torch.tensor(values, dtype=torch.float32, device=self._device),
            )
        return result
