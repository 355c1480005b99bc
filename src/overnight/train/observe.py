"""What may look on while updates are made: measurements and controllers, never the update itself."""

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor


class StepObserver(Protocol):
    """Built before the first step, on every rank alike; ``Stepper.observer``.

    An observer that communicates does so where all ranks call it, and never in these methods.
    """

    def gradients(self, norm: Tensor, *, loss_scale: float, skipped: bool) -> None:
        """After all backwards of an update and unscaling, before clipping: the mean gradients are in ``.grad``.

        Args:
            norm: of what is clipped, before clipping; on the device.
            loss_scale: that the backwards had, and ``.grad`` no longer has; 1 without a scaler.
            skipped: the update will not be made, since the loss or a gradient is not finite.
        """

    def around(self) -> AbstractContextManager[None]:
        """Around the optimizer's step; of an update that is not skipped."""

    def discard(self) -> None:
        """A backward has been made that belongs to no update."""
