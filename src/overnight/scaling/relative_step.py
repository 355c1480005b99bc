"""How far a step moves each layer, ‖Δw‖ / ‖w‖, and how often the gradient is clipped."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RelativeStepReading:
    """Moving averages over the measured steps; NaN before the first.

    Attributes:
        relative_step: ‖Δw‖ / ‖w‖ of all parameters together.
        layers: the same of each, by name; 0 where ‖w‖ is 0.
        cosine: between successive updates, of all parameters together; None unless asked for.
        steps: that were measured.
    """

    relative_step: float
    layers: Mapping[str, float]
    cosine: float | None
    steps: int

    @property
    def spread(self) -> float:
        """The largest layer's over the smallest's, of those that move; 1 if none does."""
        moving = [value for value in self.layers.values() if value > 0]
        return max(moving) / min(moving) if moving else 1.0


class RelativeStep:
    """Measures ‖Δw‖ / ‖w‖ around the optimizer's step, whatever the optimizer is.

    A warm-up has done its work when this is flat; a run is near divergence when it jumps; LARS and LAMB make it the
    same for all layers. A measured step takes one copy of the parameters and a few passes over them, and reads nothing
    from the device before ``read``. Kosson et al. 2024 (arXiv 2305.17212) on what it is at equilibrium.

    Args:
        named_parameters: (name, parameter) pairs; each name is a layer.
        every: measure each so many steps.
        decay: of the moving averages, a measured step.
        cosine: also that between successive updates: near 1 the rate may rise, below 0 the steps overshoot. Takes one
            more copy of the parameters.

    Raises:
        ValueError: for settings that cannot be.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(4))
    >>> optimizer, steps = torch.optim.SGD([weight], lr=0.01), RelativeStep([("w", weight)])
    >>> weight.sum().backward()
    >>> with steps.around():
    ...     optimizer.step()
    >>> round(steps.read().layers["w"], 4)
    0.01
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        every: int = 1,
        decay: float = 0.9,
        cosine: bool = False,
    ) -> None:
        pairs = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        self.names, self._parameters = [name for name, _ in pairs], [parameter for _, parameter in pairs]
        if not pairs or len(set(self.names)) < len(self.names):
            raise ValueError("A relative step needs parameters that require gradients, each with a name of its own.")
        if every % 1 != 0 or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, not {every!r}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be a number from 0 to below 1, not {decay!r}.")
        self.every, self.decay, self.cosine = every, decay, cosine
        self._steps = 0
        device = self._parameters[0].device
        # every layer, then all together, then the cosine; and how much each average has seen
        self._averages = torch.zeros(len(pairs) + 2, dtype=torch.float64, device=device)
        self._seen = torch.zeros_like(self._averages)
        self._measured = torch.zeros((), dtype=torch.int64, device=device)
        self._before: list[Tensor] | None = None
        self._last: list[Tensor] | None = None

    @contextmanager
    def around(self) -> Iterator[None]:
        """Measure what happens inside: the optimizer's step, which may be skipped."""
        self.before()
        yield
        self.after()

    @torch.no_grad()
    def before(self) -> None:
        """To be called right before the optimizer's step."""
        due = self._steps % self.every == 0
        if due or (self.cosine and (self._steps + 1) % self.every == 0):
            self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def after(self) -> None:
        """To be called right after it."""
        due, before = self._steps % self.every == 0, self._before
        self._steps += 1
        self._before = None
        if before is None:
            return
        updates = list(torch._foreach_sub([p.detach() for p in self._parameters], before))
        if due:
            self._measure(updates, before)
        self._last = updates if self.cosine else None

    def _measure(self, updates: list[Tensor], before: list[Tensor]) -> None:
        moved, weights = _norms(updates), _norms(before)
        total, whole = moved.square().sum().sqrt(), weights.square().sum().sqrt()
        values = [_ratio(moved, weights), _ratio(total, whole).view(1)]
        cosine = torch.full_like(total, float("nan"))
        if self._last is not None:
            last = _norms(self._last).square().sum().sqrt()
            both = _norms(list(torch._foreach_add(updates, self._last))).square().sum()
            cosine = ((both - total.square() - last.square()) / (2 * total * last)).clamp(-1, 1)
        found = torch.cat([*values, cosine.view(1)])
        # a step that was skipped, or is not finite, says nothing
        known = torch.isfinite(found) & torch.isfinite(total) & (total > 0)
        self._averages = torch.where(known, self.decay * self._averages + (1 - self.decay) * found, self._averages)
        self._seen = torch.where(known, self.decay * self._seen + (1 - self.decay), self._seen)
        self._measured += known[-2]

    def read(self) -> RelativeStepReading:
        """The averages of now."""
        values = (self._averages / self._seen).tolist()
        layers = dict(zip(self.names, values[:-2], strict=True))
        return RelativeStepReading(values[-2], layers, values[-1] if self.cosine else None, int(self._measured))

    def state_dict(self) -> dict[str, Any]:
        """The averages, for a checkpoint; not the last update, so the first cosine after a resume is left out."""
        return {
            "names": list(self.names),
            "averages": self._averages.clone(),
            "seen": self._seen.clone(),
            "measured": int(self._measured),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with averages.

        Raises:
            ValueError: if they are of other layers.
        """
        if list(state["names"]) != self.names:
            raise ValueError("This state of relative steps is of other layers.")
        self._averages.copy_(state["averages"])
        self._seen.copy_(state["seen"])
        self._measured.fill_(state["measured"])
        self._steps, self._before, self._last = state["steps"], None, None


class ClipRate:
    """The share of steps whose gradient was clipped, and by how much on average; read from the device only by ``read``.

    >>> import torch
    >>> rate = ClipRate()
    >>> for norm in (0.5, 1.0, 2.0, 4.0):
    ...     rate.observe(torch.tensor(norm), max_norm=1.0)
    >>> rate.read()
    (0.5, 0.6875)
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._steps = 0

    @torch.no_grad()
    def observe(self, norm: Tensor, max_norm: float) -> None:
        """Take in a step by the norm before clipping."""
        factor = (max_norm / norm.detach().double()).clamp(max=1.0)
        both = torch.stack([(norm > max_norm).double(), factor])
        self._sums = both if self._sums is None else self._sums + both
        self._steps += 1

    def read(self) -> tuple[float, float]:
        """(share of clipped steps, mean factor on the gradient) since the last reading; NaN for no steps."""
        if self._sums is None:
            return float("nan"), float("nan")
        share, factor = (self._sums / self._steps).tolist()
        self._sums, self._steps = None, 0
        return share, factor


def _norms(tensors: list[Tensor]) -> Tensor:
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return torch.stack(list(torch._foreach_norm(tensors, 2, wide))).double()


def _ratio(moved: Tensor, weights: Tensor) -> Tensor:
    return torch.where(weights > 0, moved / weights, 0.0)
