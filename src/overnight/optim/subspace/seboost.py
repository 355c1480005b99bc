"""SEBOOST (Richardson et al. 2016): every so many steps of an optimizer, a search in the span of its past ways."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from overnight.errors import UserError
from overnight.optim.subspace import checks, state
from overnight.optim.subspace.buffer import DisplacementBuffer, Layout, Weight
from overnight.optim.subspace.closure import BoostClosure
from overnight.optim.subspace.conjugate_gradients import NonlinearCG
from overnight.optim.subspace.momentum import momenta_of, pull_back
from overnight.optim.subspace.rules import CoefficientRule
from overnight.optim.subspace.search import Boost, search


@dataclass
class _Counters:
    steps: int = 0
    since: int = 0
    outer: int = 0
    drawn: int = 0


class SEBoost(Optimizer):
    """SEBOOST around any optimizer: x ← x + D α after every l steps of it, α chosen on one batch.

        d = x - z              z: where the last boost ended
        D = [d, past outer displacements, x - anchors, m]
        α = argmin F_S(x + D α),   x ← x + D α,   z ← x

    D's newest column becomes the whole way d + D α. With another rule for α the same object is Lookahead, an average
    of past weights, or Anderson acceleration: see ``overnight.optim.subspace``. Only ``step`` changes the weights
    where ``batches`` is given, or the rule needs no loss; else ``due`` says when to call ``boost``.

    A boost that raises the loss of its batch is refused, and with ``accept`` one that raises that of a second batch.
    Groups and state are the base optimizer's own, shared; a scheduler may hold either of the two.

    Args:
        base: the optimizer. Its ``step`` must not need a closure.
        rule: how α is chosen; None for ``NonlinearCG()``.
        model: holds all parameters; DDP, FSDP2 or plain. Needed where there is a loss.
        loss: batch → mean loss, or (outputs, batch) → mean loss with ``outputs``. It calls the model.
        outputs: batch → the model's outputs, one tensor; needed by ``GaussNewton``.
        batches: number → batch, the same one for the same number, so that a resumed run sees the same.
        every: l, steps between boosts; the authors' code has 100.
        history: M, past displacements that are kept: so many copies of the weights.
        anchors: an anchor is set to the weights every so many boosts. Of use where that is more than ``history``.
        momentum_column: μ of m ← μ m + displacement, one more column; 0 for none.
        orthonormal: make the columns orthogonal, each as long as the newest displacement.
        ridge: ρ of ½ ρ ‖α‖², which is added to the loss that the rule sees.
        accept: only if the loss of a second batch does not rise either. Ignored without a loss.
        jump: False leaves the weights to the base optimizer; the rule's point is for ``with boosted():`` alone.
        base_momentum: after a jump ``keep`` it, ``reset`` it to 0, or ``pullback``: go back towards the last jump's by
            the same fraction as along the newest displacement.
        storage_dtype: of the displacements, or its name; None for the weights' (float32 for low-precision ones).
        storage_device: of the displacements and z.
        seed: of dropout and other draws in the boost.
        process_group: ranks whose losses are averaged; None for that of DDP or of the sharded parameters.

    State: ``boost_point``, ``boost_row_…`` of each parameter, and counters in each group under ``boost``.

    Raises:
        UserError: for what cannot work, named.

    Source: Richardson, Herskovitz, Ginsburg and Zibulevsky 2016, arXiv 1609.00629, and their code.

    >>> from overnight.optim import SEBoost
    >>> model = torch.nn.Linear(2, 1)
    >>> def loss(batch):
    ...     return (model(batch) - 1).square().mean()
    >>> def batches(number):
    ...     return torch.randn(16, 2, generator=torch.Generator().manual_seed(number))
    >>> optimizer = SEBoost(torch.optim.SGD(model.parameters(), lr=0.01), model=model, loss=loss, batches=batches,
    ...                     every=5)
    >>> for number in range(5):
    ...     optimizer.zero_grad()
    ...     loss(batches(1000 + number)).backward()
    ...     optimizer.step()
    >>> optimizer.last.loss_after <= optimizer.last.loss_before
    True
    """

    _step_supports_amp_scaling = True
    """So that GradScaler sets ``found_inf``, by which ``step`` knows it."""

    def __init__(
        self,
        base: Optimizer,
        rule: CoefficientRule | None = None,
        *,
        model: nn.Module | None = None,
        loss: Callable[..., Tensor] | None = None,
        outputs: Callable[[Any], Tensor] | None = None,
        batches: Callable[[int], Any] | None = None,
        every: int = 200,
        history: int = 10,
        anchors: Sequence[int] = (),
        momentum_column: float = 0.0,
        orthonormal: bool = False,
        ridge: float = 0.0,
        accept: bool = True,
        jump: bool = True,
        base_momentum: Literal["keep", "reset", "pullback"] = "keep",
        storage_dtype: torch.dtype | str | None = None,
        storage_device: torch.device | str | None = None,
        seed: int = 0,
        process_group: Any = None,
    ) -> None:
        self.base, self.rule = base, NonlinearCG() if rule is None else rule
        self.model, self.loss, self.outputs, self.batches = model, loss, outputs, batches
        self.every, self.orthonormal, self.ridge, self.accept, self.jump = every, orthonormal, ridge, accept, jump
        self.base_momentum, self.seed, self.process_group = base_momentum, seed, process_group
        self.last: Boost | None = None
        checks.check_settings(self, history, anchors, momentum_column)
        average, residuals = self.rule.keeps_average, self.rule.keeps_residuals
        layout = Layout(history, tuple(anchors), float(momentum_column), average, residuals)
        device = None if storage_device is None else torch.device(storage_device)
        self.buffer = DisplacementBuffer(layout, checks.storage_dtype(storage_dtype), device)
        self._counters, self._momenta = _Counters(), list[Tensor | None]()
        self._chosen = torch.zeros(layout.rows, dtype=torch.float64)
        self._built = False
        super().__init__(base.param_groups, base.defaults)
        self._built = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's own."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if self._built:  # what the constructor of Optimizer sets is not for the base
            self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's own."""
        return self.base.state

    @state.setter
    def state(self, value: Any) -> None:
        if self._built:
            self.base.state = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; its past displacements are zero."""
        if self._built:
            self.base.add_param_group(param_group)
            if self.buffer.stored:
                self.buffer.extend(self._weights())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The base optimizer's."""
        self.base.zero_grad(set_to_none)

    @property
    def due(self) -> bool:
        """Whether ``every`` steps were made since the last boost."""
        return self._counters.since >= self.every

    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the base optimizer; after every l-th a boost, where it needs nothing from outside.

        Args:
            closure: for the base optimizer.

        Raises:
            UserError: under GradScaler, and if a boost that was due was not made.
        """
        if "found_inf" in vars(self):
            vars(self).pop("found_inf")
            vars(self).pop("grad_scale", None)
            raise UserError(
                "SEBoost does not work under GradScaler, which cannot scale the boost's own losses.",
                "Train in bfloat16 autocast or in float32, without a scaler.",
            )
        if self.due and self.loss is not None and self.batches is None:
            raise UserError(
                f"A boost has been due since step {self._counters.steps}.",
                "Call boost(batch) when optimizer.due is true, or give SEBoost batches=.",
            )
        if len(self.buffer.stored) == 0:
            self.buffer.extend(self._weights())
        result = self.base.step(closure) if closure is not None else self.base.step()
        for group in self.base.param_groups:
            for p in group["params"]:
                self.base.state.setdefault(p, {})  # where there is none, torch.distributed.checkpoint makes a step
        self._counters.steps += 1
        self._counters.since += 1
        if self.due and self.loss is None:
            self._boost(None, None)
        elif self.due and self.batches is not None:
            self._boost(self._draw(), self._draw() if self.accept else None)
        return result

    def boost(self, batch: Any = None, second: Any = None) -> Boost:
        """Search now, from where the base optimizer is.

        Args:
            batch: what ``loss`` takes; this rank's part.
            second: another batch, for ``accept``.

        Raises:
            UserError: for a missing batch, or a loss that is not repeatable; the weights are as before.
        """
        if self.loss is not None and (batch is None or (second is None and self.accept)):
            what = "batch" if batch is None else "second batch, by which a boost is accepted"
            raise UserError(f"boost() was given no {what}.", "Call boost(batch, second), or build with accept=False.")
        if not self.buffer.stored:
            raise UserError("There is no displacement before the first step.", "Call boost() after step().")
        with torch.no_grad():
            return self._boost(batch, second)

    def boost_closure(self, batch: Any) -> BoostClosure:
        """The loss of a batch as a repeatable function of the weights.

        Raises:
            UserError: if there is no loss.
        """
        if self.loss is None or self.model is None:
            raise UserError("This SEBoost has no loss.", "Build it with loss= and model=.")
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if ranks else 0
        seed = (self.seed * 1_000_003 + self._counters.outer * 4099 + rank) % 2**63
        return BoostClosure(self.model, self.loss, self.outputs, batch, seed, self.process_group)

    @contextlib.contextmanager
    def boosted(self) -> Iterator[None]:
        """For a ``with`` block, the weights are where the last boost ended, or with ``jump=False`` would have."""
        weights = self._weights()
        if not self.buffer.stored:
            raise UserError("There is no boost yet.", "Make a step first.")
        with torch.no_grad():
            kept = [weight.read().clone() for weight in weights]
            self.buffer.move(weights, torch.zeros_like(self._chosen) if self.jump else self._chosen)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, flat in zip(weights, kept, strict=True):
                    weight.write(flat)

    def _weights(self) -> list[Weight]:
        return [
            Weight(p, self.base.state[p].get("master") if p in self.base.state else None)
            for group in self.base.param_groups
            for p in group["params"]
        ]

    def _draw(self) -> Any:
        assert self.batches is not None
        self._counters.drawn += 1
        return self.batches(self._counters.drawn - 1)

    def _boost(self, batch: Any, second: Any) -> Boost:
        counters, weights = self._counters, self._weights()
        self.buffer.extend(weights)
        counters.outer += 1
        counters.since = 0
        length = self.buffer.absorb(weights, counters.outer, self.rule.average_decay(counters.outer))
        if not 0.0 < length < math.inf:
            reason = "the weights have not moved" if length == 0.0 else "the weights are not finite"
            self.last = Boost(counters.outer, counters.steps, reason=reason)
            return self.last
        self._chosen = torch.zeros_like(self._chosen)
        try:
            closure = None if self.loss is None else self.boost_closure(batch)
            other = self.boost_closure(second) if self.loss is not None and self.accept else None
            found, chosen = search(self.rule, self.buffer, weights, closure, other, self.ridge, self.orthonormal)
        except BaseException:
            self.buffer.move(weights, self._chosen)
            raise
        self.last, self._chosen = Boost(counters.outer, counters.steps, **found), chosen
        moved = chosen if self.jump else torch.zeros_like(chosen)
        if bool(moved.any()):
            self.buffer.settle(weights)
        elif not self.jump:
            self.buffer.move(weights, moved)
        if self.base_momentum == "reset" and bool(moved.any()):
            for momentum in momenta_of(weights, self.base.state):
                if momentum is not None:
                    momentum.zero_()
        elif self.base_momentum == "pullback":
            kept = min(max(1.0 + float(moved[self.buffer.position]), 0.0), 1.0)
            old = self._momenta + [None] * (len(weights) - len(self._momenta))
            self._momenta = pull_back(momenta_of(weights, self.base.state), old, kept)
        return self.last

    @_disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's, with the displacements in ``state`` and the counters in the groups."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        packed = dict(self.base.state_dict())
        counters = {**asdict(self._counters), "position": self.buffer.position, "filled": self.buffer.filled}
        counters["chosen"] = self._chosen.tolist()
        weights = self._weights()
        momenta = self._momenta + [None] * (len(weights) - len(self._momenta))
        state.pack(packed, counters, self.buffer, weights, momenta)
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, packed)
            packed = packed if changed is None else changed
        return packed

    @_disable_dynamo
    @torch.no_grad()
    def load_state_dict(self, state_dict: Any) -> None:
        """Load what ``state_dict()`` gave; or the base optimizer's own, with which the history starts empty.

        Raises:
            UserError: for the state of other parameters or other settings; nothing is changed.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        theirs, counters, entries = state.split(state_dict, self.buffer.layout.rows)
        state.check(entries, self._weights())
        self.base.load_state_dict(theirs)
        self.buffer.stored.clear()
        self.buffer.position, self.buffer.filled = -1, 0
        self._counters, self._momenta, self.last = _Counters(), [], None
        self._chosen.zero_()
        if counters is not None:
            rest = dict(counters)
            self.buffer.position, self.buffer.filled = rest.pop("position"), rest.pop("filled")
            self._chosen.copy_(torch.tensor(rest.pop("chosen")))
            self._counters = _Counters(**rest)
            if any("point" in entry for entry in entries):
                self.buffer.extend(self._weights())
                self._momenta = state.restore(self.buffer, entries)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "step"}  # a scheduler's, of this object
