"""A module whose ranks exchange in backward, or that has no others: what ways to train on several ranks start from."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from overnight.comm.meter import Meter


class Strategy:
    """A module whose ranks exchange in backward, as DDP's do; alone, a module of one process.

    Args:
        module: what is called in training.
        meter: of its exchanges.

    Attributes:
        synchronous: every update is of all ranks' gradients.
        met: after the last update all ranks have the same weights; always so if ``synchronous``.
        per_rank: each rank's ``state_dict`` is to be saved, not only one's.
        sharded: each rank has a part of every weight only, a ``DTensor``.
    """

    name = "ddp"
    synchronous = True
    per_rank = False
    sharded = False

    def __init__(self, module: nn.Module, meter: Meter | None = None) -> None:
        self.module, self.meter = module, meter

    @property
    def met(self) -> bool:
        return True

    def no_sync(self) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch that only adds to this rank's gradients."""
        inner = getattr(self.module, "no_sync", None)
        return nullcontext() if inner is None else inner()

    def skipped(self) -> None:
        """The update of the last backward is not made; before ``after_update``."""

    def after_update(self) -> None:
        """After each update, also one that was skipped."""

    def forget(self) -> None:
        """Undo what a backward before the first update has left."""
        if self.meter is not None:
            self.meter.read()

    def before_checkpoint(self) -> None:
        """Make all ranks' weights alike; every rank must call it."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimizer, which are to be read after it; every rank must call."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, once weights and optimizer have theirs; an empty one begins anew."""

    def close(self) -> None:
        """Give up the exchange, before the process group ends."""
