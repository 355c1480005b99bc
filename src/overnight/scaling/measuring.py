"""What an on-line engine sees of a step: the loss, the noise scale, the relative step; the same on every rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.errors import UserError
from overnight.scaling.noise_reading import NoiseReading
from overnight.scaling.noise_scale import NoiseScale
from overnight.scaling.relative_step import RelativeStep

BLOCK_STEPS, BLOCKS = 2, 16


class Measuring:
    """Takes in micro-batches and updates, each ``every`` steps; hooks of the optimizer say when it moves.

    Args:
        named: (name, parameter) pairs.
        optimizer: whose step is watched.
        every: steps from one measurement to the next.
        noise: measure the noise scale.
        preconditioned: the one that an Adam-like optimizer sees.
        process_group: of the ranks.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        *,
        every: int,
        noise: bool,
        preconditioned: bool,
        process_group: dist.ProcessGroup | None,
    ) -> None:
        self._named, self._optimizer, self._group = named, optimizer, process_group
        self.every, self.preconditioned = every, preconditioned
        self.ranks = dist.get_world_size(process_group) if dist.is_available() and dist.is_initialized() else 1
        self.updates = 0
        self.updated = self._moved = False
        self.losses: list[Tensor | float] = []
        self.moves = RelativeStep(named, every=every, decay=0.0)
        self.noise: NoiseScale | None = None
        self.begin(noise)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self.moves.before()),
            optimizer.register_step_post_hook(lambda *_: self._after_update()),
        ]

    def begin(self, noise: bool) -> None:
        """A new window of the noise scale, or none."""
        if self.noise is not None:
            self.noise.close()
        self._measured = self._last_read = 0
        self.noise = None
        if noise:
            self.noise = NoiseScale(
                self._named,
                optimizer=self._optimizer if self.preconditioned else None,
                every=self.every,
                blocks=BLOCKS,
                block_steps=BLOCK_STEPS,
                process_group=self._group,
            )

    def take(self, loss: Tensor | float, accumulation: int) -> bool:
        """A micro-batch's loss; whether it was the last of the step.

        Raises:
            UserError: for one more than a step has.
        """
        if len(self.losses) >= accumulation:
            raise UserError(f"observe was called more than {accumulation} times in a step.", "Call step after it.")
        self.losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        return len(self.losses) == accumulation

    def check(self, accumulation: int) -> None:
        """Raise a UserError unless all micro-batches of the step were observed."""
        if len(self.losses) != accumulation:
            raise UserError(
                f"observe was called {len(self.losses)} times in this step of {accumulation} micro-batches.",
                "Read date.accumulation before each step, and call observe after each backward.",
            )

    def observe(self, global_batch_size: int, loss_scale: float) -> None:
        """All gradients of a step are there."""
        if self.noise is not None:
            self._measured += self.noise.measuring
            self.noise.observe(global_batch_size, loss_scale=loss_scale)

    def _after_update(self) -> None:
        self.moves.after()
        self._moved = self.updates % self.every == 0
        self.updates += 1
        self.updated = True

    def end_step(self, loss: Tensor | float | None) -> tuple[float, bool, float | None]:
        """Mean loss over all ranks, whether an update was made, and the relative step where it was measured.

        Args:
            loss: in the place of those that were observed.
        """
        if loss is not None:
            self.losses = [loss.detach() if isinstance(loss, Tensor) else loss]
        seen = self._mean_loss(), self.updated, self.moves.read().relative_step if self._moved else None
        self.losses, self.updated, self._moved = [], False, False
        return seen

    def _mean_loss(self) -> float:
        if self.ranks == 1:
            return sum(float(loss) for loss in self.losses) / len(self.losses)
        device = self._named[0][1].device
        mean = torch.stack([torch.as_tensor(loss, device=device).double() for loss in self.losses]).mean()
        dist.all_reduce(mean, group=self._group)
        return float(mean) / self.ranks

    def reading(self) -> NoiseReading | None:
        """The noise scale, each time that two more blocks of steps are full; None between, or if it is not finite."""
        due = max(self._last_read + 2 * BLOCK_STEPS, 3 * BLOCK_STEPS)
        if self.noise is None or self._measured < due:
            return None
        self._last_read = self._measured
        try:
            return self.noise.read(preconditioned=self.preconditioned)
        except UserError:
            return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data; every rank must call it, and all go on from what it says."""
        noise = None
        if self.noise is not None:
            state = self.noise.state_dict()
            self.noise.load_state_dict(state)  # sums over ranks round as in a run that is resumed from it
            noise = _lists(state)
        counts = [self.updates, self._measured, self._last_read]
        return {"counts": counts, "noise": noise, "moves": _lists(self.moves.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.updates, self._measured, self._last_read = state["counts"]
        device = self._named[0][1].device
        if self.noise is not None and state["noise"] is not None:
            self.noise.load_state_dict(_tensors(state["noise"], ("sums", "counts"), device))
            self.noise.discard()
        self.moves.load_state_dict(_tensors(state["moves"], ("averages", "seen"), device))

    def close(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        if self.noise is not None:
            self.noise.close()
        self._hooks = []


def _lists(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in state.items()}


def _tensors(state: Mapping[str, Any], names: tuple[str, ...], device: torch.device) -> dict[str, Any]:
    made = {name: torch.tensor(state[name], dtype=torch.float64, device=device) for name in names}
    return {**state, **made}
