"""What a run says of itself while it trains: noise scale, relative steps, clip rate."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.scaling.noise_reading import NoiseReading
from overnight.scaling.noise_scale import NoiseScale
from overnight.scaling.relative_step import ClipRate, RelativeStep, RelativeStepReading


class Measurements:
    """Looks on as a ``Stepper``'s observer. Off it costs nothing, since then there is none.

    Args:
        named_parameters: (name, parameter) pairs, of the model.
        optimizer: what trains them; of an Adam-like one the preconditioned noise is measured too.
        global_batch_size: samples of an update, over all ranks.
        max_norm: to which gradients are clipped; None for no clipping.
        every: measure each so many steps.

    >>> model = torch.nn.Linear(2, 1)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> Measurements(model.named_parameters(), sgd, global_batch_size=8, max_norm=None).noise.every
    10
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        *,
        global_batch_size: int,
        max_norm: float | None,
        every: int = 10,
    ) -> None:
        pairs = list(named_parameters)
        self.preconditioned = is_adam_like(optimizer)
        self.noise = NoiseScale(pairs, optimizer=optimizer if self.preconditioned else None, every=every)
        self.moves, self.clips = RelativeStep(pairs, every=every), ClipRate()
        self.global_batch_size, self.max_norm = global_batch_size, max_norm

    def gradients(self, norm: Tensor, *, loss_scale: float, skipped: bool) -> None:
        """See ``StepObserver``. A gradient that is not finite says nothing, and is left out where it is read."""
        self.noise.observe(self.global_batch_size, loss_scale=loss_scale)
        if self.max_norm is not None and not skipped:
            self.clips.observe(norm, self.max_norm)

    def around(self) -> AbstractContextManager[None]:
        """See ``StepObserver``."""
        return self.moves.around()

    def discard(self) -> None:
        """See ``StepObserver``."""
        self.noise.discard()

    def read(self) -> tuple[NoiseReading, NoiseReading | None, RelativeStepReading, tuple[float, float] | None]:
        """Raw and preconditioned noise, relative steps, (share of clipped steps, mean factor). Every rank must call it.

        Raises:
            UserError: if every gradient was not finite.
        """
        raw = self.noise.read()
        adam = self.noise.read(preconditioned=True) if self.preconditioned else None
        share, factor = self.clips.read()
        return raw, adam, self.moves.read(), None if math.isnan(share) else (share, factor)

    def close(self) -> None:
        """Take the hooks off the parameters."""
        self.noise.close()


def is_adam_like(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it divides by the root of a second moment that it keeps as ``exp_avg_sq``."""
    kept = [state for state in optimizer.state.values() if state]
    if kept:
        return any("exp_avg_sq" in state for state in kept)
    return "betas" in optimizer.defaults and "eps" in optimizer.defaults


def micro_batches(share: int, wanted: int | None, world_size: int) -> int:
    """Samples of a micro-batch such that noise can be told: at least two of them over all ranks.

    Args:
        share: samples of a rank in an update.
        wanted: samples of a micro-batch as the user has said, or None.
        world_size: ranks.

    Raises:
        UserError: if there is one micro-batch on one rank and no way, or no leave, to make two.

    >>> micro_batches(32, None, 1), micro_batches(32, None, 2), micro_batches(9, None, 1), micro_batches(32, 4, 1)
    (8, 32, 3, 4)
    """
    if wanted is not None:
        if world_size == 1 and wanted >= share:
            raise UserError(
                f"The gradient noise scale cannot be measured from one micro-batch of {share} on one rank.",
                f"Leave out --micro-batch-size, or set it to {_divisor(share)}."
                if share > 1
                else "Take a batch of 2 or more, or train on two ranks.",
            )
        return wanted
    if world_size > 1:
        return share
    if share == 1:
        raise UserError(
            "The gradient noise scale cannot be measured from a batch of one sample on one rank.",
            "Take a baseline with a batch of 2 or more, or train on two ranks.",
        )
    return _divisor(share)


def _divisor(share: int) -> int:
    """Samples of a micro-batch when the batch is cut into four, or into the next best number that divides it."""
    counts: list[int] = [4, 3, 5, 6, 2, *range(7, share + 1)]
    return share // next(count for count in counts if share % count == 0)
