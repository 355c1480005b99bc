"""The bridge to torch: a schedule as a ``torch.optim.lr_scheduler.LambdaLR`` that counts samples."""

import math
import weakref
from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from overnight.schedule.progress import Progress, Schedule, above_zero, at_least_zero


def apply(
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    global_batch_size: int,
    total_samples: float,
    scaler: torch.amp.GradScaler | None = None,
    strict: bool = True,
) -> "ProgressLR":
    """Let a schedule set an optimizer's rates; each parameter group keeps its own peak.

    The peak is the group's ``lr``, or its ``initial_lr`` where a checkpoint or another scheduler has left one, as with
    all of torch's schedulers.

    Args:
        optimizer: any ``torch.optim.Optimizer``, or a wrapper with the real one as ``.optimizer`` (Accelerate's).
        schedule: (Progress) → factor: a curve of this package, or a ``partial`` of one.
        global_batch_size: samples of one optimizer step, over all ranks and micro-batches.
        total_samples: of the whole run; ``math.inf`` for a schedule without an end.
        scaler: the ``GradScaler`` in use, if any: it is asked whether it skipped a step.
        strict: False counts the calls of ``step`` as they come, as torch's schedulers do: for optimizer steps that
            Python does not see, such as the replay of a CUDA graph.

    Raises:
        ValueError: for numbers that cannot be, or a warm-up longer than the run.

    >>> from overnight.schedule import linear
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.4)
    >>> scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=40)
    >>> optimizer.step(); scheduler.step(); scheduler.get_last_lr()
    [0.30000000000000004]
    """
    return ProgressLR(
        optimizer,
        schedule,
        global_batch_size=global_batch_size,
        total_samples=total_samples,
        scaler=scaler,
        strict=strict,
    )


class ProgressLR(LambdaLR):
    """What ``apply`` returns. Call ``step()`` once after each ``optimizer.step()``.

    How it knows: a step hook of the optimizer says that an update was made. When ``step()`` is called and none was:

    - a ``GradScaler`` skipped it (the scaler's scale has fallen, or the gradients in place are not finite; a fused
      optimizer says so itself): the rate stays, and ``skipped`` counts it;
    - otherwise it is called twice for one update, once per rank or micro-batch say: RuntimeError, and the rate stays.

    ``state_dict`` holds numbers only; schedule, batch and length are those given when it is made again. Loading it
    sets the optimizer's rates too, so it may be loaded before or after the optimizer.

    Attributes:
        samples: samples of the updates made.
        skipped: steps that the scaler skipped.
        last_epoch: updates made (torch's name for it).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        global_batch_size: int,
        total_samples: float,
        scaler: torch.amp.GradScaler | None = None,
        strict: bool = True,
    ) -> None:
        above_zero(global_batch_size=global_batch_size)
        if total_samples != math.inf:
            above_zero(total_samples=total_samples)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer.")
        if not callable(schedule):
            raise ValueError(f"schedule must be a function of Progress, not {schedule!r}.")
        longest = _longest_warmup(schedule)
        if longest > total_samples:
            raise ValueError(f"The warm-up of {longest:g} samples is longer than the run of {total_samples:g}.")
        self.schedule = schedule
        self.global_batch_size = global_batch_size
        self.total_samples = total_samples
        self.scaler = scaler
        self.strict = strict
        self.samples: float = 0
        self.skipped = 0
        self._factor(0)  # what is wrong with the schedule is said before the optimizer is touched
        self._stepped = False
        self._found_inf: torch.Tensor | None = None
        self._scale = math.inf if scaler is None else scaler.get_scale()
        self._made = False
        super().__init__(optimizer, self._factor)
        self._made = True
        self._watch()

    def _watch(self) -> None:
        inner = self.optimizer
        while isinstance(getattr(inner, "optimizer", None), Optimizer):
            inner = inner.optimizer  # type: ignore[attr-defined]
        owner = weakref.ref(self)

        def note(stepped: Optimizer, args: Any, kwargs: Any) -> None:
            scheduler = owner()
            if scheduler is not None:
                scheduler._stepped = True
                # set by GradScaler for the duration of the step, where the optimizer itself leaves out the update
                scheduler._found_inf = getattr(stepped, "found_inf", None)

        inner.register_step_post_hook(note)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()

    def _factor(self, _: int) -> float:
        factor = self.schedule(Progress(self.samples, self.global_batch_size, self.total_samples))
        if not isinstance(factor, (Real, torch.Tensor)) or not 0 <= factor < math.inf:
            raise ValueError(f"The schedule gave a factor of {factor!r} at {self.samples:g} samples.")
        return factor

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next update.

        Raises:
            RuntimeError: if the optimizer has made no update since the last call.
            ValueError: for an epoch; it counts samples.
        """
        if epoch is not None:
            raise ValueError("This schedule counts samples: step() takes no epoch.")
        if not self._made:  # torch's constructor sets the first rates through step()
            self.last_epoch = 0
            self._set_rates()
            return
        if self._skipped():
            self.skipped += 1
        else:
            before = self.samples
            self.samples = before + self.global_batch_size
            try:
                self._set_rates()
            except Exception:
                self.samples = before
                raise
            self.last_epoch += 1
        self._stepped, self._found_inf = False, None
        if self.scaler is not None:
            self._scale = self.scaler.get_scale()

    def _skipped(self) -> bool:
        if self._stepped:
            return self._found_inf is not None and bool(self._found_inf)
        if self.scaler is not None and self.scaler.get_scale() < self._scale:
            return True
        if not self.strict:
            return False
        if self._gradients_are_finite():
            amp = "hand it to apply(scaler=)" if self.scaler is None else "call it after scaler.update()"
            raise RuntimeError(
                f"scheduler.step() was called without an optimizer.step() since its last call (update "
                f"{self.last_epoch}); the rate stays. Call it once after each optimizer.step(), not once per rank or "
                f"micro-batch (with Accelerate, keep it out of prepare()). If a GradScaler skipped the update, {amp}."
            )
        return True

    def _gradients_are_finite(self) -> bool:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
        values = [g.coalesce().values() if g.is_sparse else g for g in local]
        return all(bool(value.isfinite().all()) for value in values)

    def _set_rates(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"The optimizer has {len(groups)} parameter groups, and had {len(self.base_lrs)} when the schedule was "
                f"applied: apply it after the last add_param_group()."
            )
        factor = self._factor(0)
        for group, peak in zip(groups, self.base_lrs, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(float(peak) * factor)
            else:
                group["lr"] = float(peak) * factor
        self._last_lr = [float(peak) * factor for peak in self.base_lrs]

    def set_global_batch_size(self, global_batch_size: int) -> None:
        """Go on with another batch: the samples seen stay. Call it after ``step()``."""
        above_zero(global_batch_size=global_batch_size)
        self.global_batch_size = global_batch_size
        self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """Numbers only: samples, updates, skipped, stepped (an update not yet counted) and the groups' peaks."""
        return {
            "samples": self.samples,
            "updates": self.last_epoch,
            "skipped": self.skipped,
            "stepped": int(self._stepped),
            "peaks": [float(peak) for peak in self.base_lrs],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``, and set the optimizer's rates.

        Raises:
            ValueError: if it is another scheduler's, or of another number of parameter groups; nothing has changed.
        """
        missing = [name for name in ("samples", "updates", "skipped", "stepped", "peaks") if name not in state_dict]
        if missing:
            raise ValueError(f"This is not the state of a ProgressLR: it has no {missing[0]!r}.")
        peaks = state_dict["peaks"]
        if len(peaks) != len(self.base_lrs):
            raise ValueError(
                f"This state is of {len(peaks)} parameter groups, and the optimizer has {len(self.base_lrs)}."
            )
        self.samples, self.last_epoch = state_dict["samples"], state_dict["updates"]
        self.skipped, self._stepped = state_dict["skipped"], bool(state_dict["stepped"])
        self._found_inf = None
        self.base_lrs = list(peaks)
        self._set_rates()


def _longest_warmup(schedule: Any) -> float:
    longest = 0.0
    while isinstance(schedule, partial):
        given = schedule.keywords.get("warmup_samples", 0)
        at_least_zero(warmup_samples=given)
        longest = max(longest, given)
        schedule = schedule.keywords.get("schedule")
    return longest
