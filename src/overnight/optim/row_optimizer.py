"""The step of an optimizer that reads and writes only rows with a gradient; see ``overnight.optim.rows``.

Shape suffixes: V rows of a parameter, R those of the step, D the rest of its shape.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from overnight.optim.layerwise import check_number
from overnight.optim.row_gradients import rows_of

ROW_STEP, ROW_DECAY = "row_step", "row_log_decay"
"""State of each row: the step of its last gradient, int64; log Π (1 - lr λ) up to it, float64. Kept where needed."""


class RowOptimizer(Optimizer):
    """What the optimizers of ``overnight.optim.rows`` share: who goes by rows, the gaps, weight decay, loading."""

    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after its settings are checked."""
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            check_number(name, group[name])
        if group.get("moments", "decayed") not in ("decayed", "frozen"):
            raise ValueError(f"moments={group['moments']!r} is not known; choose decayed or frozen.")

    def _start(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def _dense(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError

    def _rows(
        self, p: Tensor, ids_R: Tensor, g_RD: Tensor, gap_R: Tensor | None, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update.

        Raises:
            ValueError: for a gradient that is sparse in more dimensions than the first.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            dense: list[Tensor] = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    self._start(p, state, group)
                if p.grad.is_sparse or self._is_by_rows(p, state):
                    self._update_rows(p, p.grad, state, group)
                else:
                    dense.append(p)
            if dense:
                gradients = [p.grad for p in dense if p.grad is not None]
                self._dense(dense, gradients, [self.state[p] for p in dense], group)
        return loss

    def _is_by_rows(self, p: Tensor, state: dict[str, Any]) -> bool:
        return ROW_STEP in state or ROW_DECAY in state

    def _update_rows(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            ids_R, g_RD = rows_of(gradient)
        else:
            ids_R, g_RD = torch.arange(len(p), device=p.device), gradient
        before = int(state["step"])
        state["step"] += 1
        gap_R = None
        if group.get("moments") == "decayed":
            if ROW_STEP not in state:
                state[ROW_STEP] = torch.full((len(p),), before, dtype=torch.int64, device=p.device)
            gap_R = before + 1 - state[ROW_STEP].index_select(0, ids_R)
            state[ROW_STEP].index_fill_(0, ids_R, before + 1)
        if group["weight_decay"] or ROW_DECAY in state:
            self._decay_rows(p, ids_R, state, group)
        self._rows(p, ids_R, g_RD, gap_R, state, group)

    def _decay_rows(self, p: Tensor, ids_R: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if ROW_DECAY not in state:
            state[ROW_DECAY] = torch.zeros(len(p), dtype=torch.float64, device=p.device)
            state["log_decay"] = torch.zeros((), dtype=torch.float64)
        state["log_decay"] += math.log1p(-float(group["lr"]) * group["weight_decay"])
        self._settle_rows(p, ids_R, state)

    def _settle_rows(self, p: Tensor, ids_R: Tensor, state: dict[str, Any]) -> None:
        now = float(state["log_decay"])
        factor_R = torch.exp(now - state[ROW_DECAY].index_select(0, ids_R)).to(p.dtype)
        state[ROW_DECAY].index_fill_(0, ids_R, now)
        p.index_copy_(0, ids_R, p.index_select(0, ids_R).mul_(column(factor_R, p)))

    @torch.no_grad()
    def settle(self) -> None:
        """Apply the weight decay that is outstanding to all rows, as before the weights are saved or evaluated."""
        for group in self.param_groups:
            for p in group["params"]:
                if ROW_DECAY in self.state.get(p, {}):
                    self._settle_rows(p, torch.arange(len(p), device=p.device), self.state[p])

    @torch.no_grad()
    def settle_moments(self) -> None:
        """Bring decayed moments of all rows to the current step, as before they are averaged over ranks.

        Without it rows whose last gradients were in different steps are not comparable.
        """
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p, {})
                if ROW_STEP in state:
                    now = int(state["step"])
                    gap_R = now - state[ROW_STEP]
                    for name, beta in self._moments(group).items():
                        if name in state:
                            state[name].mul_(power(beta, gap_R, p))
                    state[ROW_STEP].fill_(now)

    def _moments(self, group: dict[str, Any]) -> dict[str, float]:
        """Names of the state that decays, and by what a step."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, in the types in which it was saved.

        Raises:
            ValueError: if the state is of parameters of other shapes or of another optimizer.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for position, (key, p) in enumerate(zip(keys, parameters, strict=False)):
            entry = state_dict["state"].get(key)
            if not entry:
                continue
            missing = sorted({"step", *self.state_names} - set(entry))
            if missing:
                raise ValueError(
                    f"The state of parameter {position} has no {', '.join(missing)}: "
                    f"it is not of a {type(self).__name__}."
                )
            for name, value in entry.items():
                if isinstance(value, Tensor) and value.ndim and value.shape[0] != p.shape[0]:
                    raise ValueError(
                        f"The state's {name} of parameter {position} has shape {list(value.shape)}, "
                        f"the parameter {list(p.shape)}."
                    )
        super().load_state_dict(state_dict)
        for key, p in zip(keys, parameters, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor) and self.state[p][name].dtype != value.dtype:
                    # torch casts all that is not called "step" to the parameter's type
                    self.state[p][name] = value.to(self.state[p][name].device, copy=True)


def power(beta: float, gap_R: Tensor | None, p: Tensor) -> Tensor | float:
    """β^Δ of each row, as a column of p's type; β itself without gaps."""
    return beta if gap_R is None else column(torch.pow(beta, gap_R.double()).to(p.dtype), p)


def column(values_R: Tensor, p: Tensor) -> Tensor:
    """One number a row, to be multiplied with rows of p."""
    return values_R.view(-1, *[1] * (p.ndim - 1))
