"""The rows of a step: drawn alike on every rank without a word between them, and joined over the ranks.

Shape suffixes: U units, R rows or units of the step.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.comm.plan import HiddenRows, Rows, drawn_units
from overnight.errors import UserError


class RowSet(NamedTuple):
    """Units of a step.

    Attributes:
        ids_R: rising, without repetition; on the CPU.
        chance_R: with which each came to be among them, float64; 1 for those that had to be.
        chance: of a unit that is not certain.
    """

    ids_R: Tensor
    chance_R: Tensor
    chance: float


def draw(units: int, rule: Rows | HiddenRows, seed: int, step: int) -> RowSet:
    """The most frequent units and those drawn for a step: a function of the arguments, so that ranks agree.

    Words are drawn anew for every step. Hidden units go round in an order that is drawn once: their gradients wait for
    their turn, and none waits longer than units / drawn steps, rounded up.

    Parameters with as many units have one set, as the weights and biases of a layer should.

    >>> first, again = (draw(100, HiddenRows(0.25), seed=0, step=7) for _ in range(2))
    >>> len(first.ids_R), torch.equal(first.ids_R, again.ids_R), first.chance
    (25, True, 0.25)
    """
    if isinstance(rule, HiddenRows):
        count = drawn_units(units, rule.rate)
        order = torch.randperm(units, generator=_generator(f"{seed} {units}"))
        ids = torch.sort(order[(torch.arange(count) + step * count) % units])[0]
        return RowSet(ids, torch.full((count,), count / units, dtype=torch.float64), count / units)
    certain = math.floor(rule.frequent * units)
    frequency = rule.by_frequency if certain else None
    count = drawn_units(units - certain, rule.random)
    drawn = torch.randperm(units - certain, generator=_generator(f"{seed} {step} {units}"))[:count] + certain
    places = torch.cat([torch.arange(certain), drawn])
    chance = count / (units - certain)
    chances = torch.full((len(places),), chance, dtype=torch.float64)
    chances[:certain] = 1.0
    ids, by = torch.sort(places if frequency is None else frequency[places])
    return RowSet(ids, chances[by], chance)


def _generator(words: str) -> torch.Generator:
    digest = hashlib.blake2b(words.encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class SampledRows:
    """Samples of an output layer that are the frequent and drawn rows of a step, as many on every call of the step.

    It takes a sampler's place in ``overnight.nn.softmax``: words whose chance is below 1 are corrected by -log of it.

    Args:
        rows: the set of the step that is being made.
        vocab_size: V.
    """

    def __init__(self, rows: Callable[[], RowSet], vocab_size: int) -> None:
        self.rows, self.vocab_size = rows, vocab_size

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.rows().ids_R)

    def draw_unique(self, count: int, generator: torch.Generator) -> "Drawn":
        """The step's words, log of the chance of each, and infinity; the generator is left as it is."""
        found = self.rows()
        if count != len(found.ids_R):
            raise UserError(
                f"The plan gives {len(found.ids_R):,} samples a step, the layer asks for {count:,}.",
                "Leave the layer's samples as sampled_parallel sets them.",
            )
        return Drawn(found.ids_R, found.chance_R.log(), math.inf)

    def log_expected_count(self, ids: Tensor, tries: float) -> Tensor:
        """log of the chance that these words had to be among the step's."""
        found = self.rows()
        chance = torch.full((self.vocab_size,), found.chance, dtype=torch.float64)
        certain = found.chance_R == 1.0
        chance[found.ids_R[certain]] = 1.0
        return chance[ids].log()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Not offered."""
        raise UserError("The plan's rows are drawn without replacement.", "Leave unique=True on the output layer.")

    def log_probability(self, ids: Tensor) -> Tensor:
        """Not offered."""
        raise UserError("The plan's rows are drawn without replacement.", "Leave unique=True on the output layer.")


class Drawn(NamedTuple):
    """As ``overnight.nn.softmax.Draw``."""

    ids: Tensor
    log_expected_count: Tensor
    tries: float


def touched_rows(gradient: Tensor) -> Tensor:
    """Rows of a dense gradient that are not all zero, rising."""
    return (gradient.reshape(len(gradient), -1) != 0).any(1).nonzero()[:, 0]


def join(ids_R: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All ranks' ids, rising, without repetition: an all-gather of their numbers, and one of ids as int32.

    Args:
        ids_R: this rank's, int64, without repetition, on the CPU; perhaps none.
        group: of the CPU.
    """
    mine = torch.tensor([len(ids_R)], dtype=torch.int32)
    numbers = [torch.empty_like(mine) for _ in range(group.size())]
    dist.all_gather(numbers, mine, group)
    longest = max(int(number) for number in numbers)
    if longest == 0:
        return ids_R
    padded = torch.full((longest,), -1, dtype=torch.int32)
    padded[: len(ids_R)] = ids_R
    parts = [torch.empty_like(padded) for _ in range(group.size())]
    dist.all_gather(parts, padded, group)
    found: Tensor = torch.cat(parts).long().unique()
    return found[int(found[0] < 0) :]
