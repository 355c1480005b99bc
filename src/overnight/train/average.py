"""An exponential moving average of the weights: trained with the weights, evaluated with the average."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm.fully_sharded import spread
from overnight.errors import UserError
from overnight.optim.trust_ratio import local


class WeightAverage:
    """After every update made,  avg ← d avg + (1 - d) w  (Polyak & Juditsky 1992; f-lm takes d = 0.999).

    It starts at the initial weights, without a correction for that, as TensorFlow's does: give it a few times
    1 / (1 - d) updates. It is kept in float32 (or wider where the weights are), and saved with the checkpoints.

    Args:
        model: whose weights; they are not changed but in ``applied``.
        batch: samples of one update.
        decay: d, a half-life of ln 2 / (1 - d) updates.
        half_life_samples: d = 0.5^(batch / half_life), the same average for every batch; instead of ``decay``.
        only: beginnings of the names of the parameters that are averaged; all without.
        buffers: average floating-point buffers too, such as the running statistics of batch norms, which are those of
            the weights as they are.

    Raises:
        UserError: unless exactly one of ``decay`` and ``half_life_samples`` is given, in its range, or if ``only``
            names nothing.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> average = WeightAverage(model, batch=8, decay=0.75)
        >>> _ = nn.init.ones_(model.weight)
        >>> average.update()
        >>> with average.applied():
        ...     model.weight.item()
        0.25
        >>> model.weight.item()
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch: int,
        decay: float | None = None,
        half_life_samples: float | None = None,
        only: Sequence[str] = (),
        buffers: bool = False,
    ) -> None:
        if (decay is None) == (half_life_samples is None):
            raise UserError("An average of weights takes a decay or a half-life.", "Give decay or half_life_samples.")
        if half_life_samples is not None:
            if not half_life_samples > 0:
                raise UserError(f"half_life_samples={half_life_samples} is no length.", "Take a number above 0.")
            decay = 0.5 ** (batch / half_life_samples)
        if decay is None or not 0.0 <= decay < 1.0:
            raise UserError(f"decay={decay} is no average.", "Take 0 (the weights themselves) to below 1.")
        prefixes = (only,) if isinstance(only, str) else tuple(only)
        every: dict[str, Tensor] = dict(model.named_parameters())
        if buffers:
            saved = model.state_dict()
            every |= {name: b for name, b in model.named_buffers() if name in saved and b.is_floating_point()}
        named = {name: p for name, p in every.items() if not prefixes or name.startswith(prefixes)}
        if not named:
            raise UserError(f"only={prefixes} names no parameter.", f"There are {_heads(model)}.")
        self.decay = decay
        self._parameters = named
        wide = {name: torch.promote_types(p.dtype, torch.float32) for name, p in named.items()}
        self.weights = {name: p.detach().to(wide[name], copy=True) for name, p in named.items()}

    @torch.no_grad()
    def update(self, share: float = 1.0) -> None:
        """Take the weights as they are now into the average.

        Args:
            share: of ``batch`` that the update was of; d is taken to this power.
        """
        averages = [local(average) for average in self.weights.values()]
        weights = [local(p.detach()).to(avg.dtype) for p, avg in zip(self._parameters.values(), averages, strict=True)]
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay**share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights meanwhile, and its own again afterwards, bit for bit."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(own)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved.

        Raises:
            UserError: if it is of other parameters.
        """
        for name, average in self.weights.items():
            if name not in weights or weights[name].shape != average.shape:
                raise UserError(
                    f"The checkpoint has no average of {name} of shape {tuple(average.shape)}.",
                    "Resume with the ema that it was trained with.",
                )
            average.copy_(spread(weights[name], average))

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])


def _heads(model: Any) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] + "." for name, _ in model.named_parameters()))
