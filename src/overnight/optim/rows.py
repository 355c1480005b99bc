"""SGD, Adagrad and Adam that read and write only the rows of which a step has gradients.

A parameter whose gradient is sparse (``overnight.nn.rows``, ``nn.Embedding(sparse=True)``) is updated row by row; the
others of the same optimizer as torch's SGD, Adagrad and AdamW do it. What a dense optimizer does to a row in the steps
in which it has no gradient is made up for when it next has one:

- Moments (``moments="decayed"``): m ← β^Δ m + …, Δ the steps since, so that m and v are those of the dense optimizer.
  Not made up for: the moves that it would have made by its old moments meanwhile. ``moments="frozen"``: Δ = 1, the
  moments stand still, as in ``torch.optim.SparseAdam``.
- Weight decay is decoupled for rows: w ← w Π (1 - lr λ), over all steps since, each with its own rate. Rows that have
  no gradient any more are left with decay outstanding until ``settle()``.

A dense gradient of a parameter that is updated by rows counts as one of all its rows.

Shape suffixes: V rows of a parameter, R those of the step, D the rest of its shape.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from overnight.optim.layerwise import check_flags, check_number
from overnight.optim.row_optimizer import RowOptimizer, power

Moments = Literal["decayed", "frozen"]


class RowSGD(RowOptimizer):
    """SGD with momentum, of rows or dense parameters.

        v ← μ^Δ v + g,   w ← w - lr v       (nesterov: w ← w - lr (g + μ v))

    Args:
        params: parameters, or groups.
        lr: rate.
        momentum: μ.
        weight_decay: λ; in the gradient for dense parameters as in ``torch.optim.SGD``, decoupled for rows, which
            without momentum is the same.
        nesterov: see above.
        moments: ``decayed`` or ``frozen`` (Δ = 1); see the module.

    State: ``step``; with momentum ``momentum_buffer`` and, for rows, ``row_step``; with decay ``row_log_decay``.

    Raises:
        ValueError: for settings that cannot work.

    >>> weight = torch.nn.Parameter(torch.ones(4, 2))
    >>> weight.grad = torch.sparse_coo_tensor([[2]], [[1.0, 2.0]], (4, 2))
    >>> RowSGD([weight], lr=0.5).step()
    >>> weight.detach()[1:3]
    tensor([[1.0000, 1.0000],
            [0.5000, 0.0000]])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        moments: Moments = "decayed",
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "moments": moments,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("momentum", group["momentum"], below=1.0)
        check_flags(group, "nesterov")

    def _start(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        pass

    def _moments(self, group: dict[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": group["momentum"]}

    def _buffer(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor | None:
        if group["momentum"] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state.get("momentum_buffer")

    def _dense(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        for state in states:
            state["step"] += 1
        buffers = [self._buffer(p, state, group) for p, state in zip(parameters, states, strict=True)]
        sgd(
            parameters, gradients, buffers, weight_decay=group["weight_decay"],
            momentum=group["momentum"], lr=float(group["lr"]), dampening=0.0, nesterov=group["nesterov"],
            maximize=False,
        )  # fmt: skip

    def _rows(
        self, p: Tensor, ids_R: Tensor, g_RD: Tensor, gap_R: Tensor | None, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        move = g_RD
        buffer = self._buffer(p, state, group)
        if group["momentum"] and buffer is not None:
            v_RD = buffer.index_select(0, ids_R).mul_(power(group["momentum"], gap_R, p)).add_(g_RD)
            buffer.index_copy_(0, ids_R, v_RD)
            move = g_RD.add(v_RD, alpha=group["momentum"]) if group["nesterov"] else v_RD
        p.index_add_(0, ids_R, move.to(p.dtype), alpha=-float(group["lr"]))


class RowAdagrad(RowOptimizer):
    """Adagrad, of rows or dense parameters; a row without a gradient needs nothing.

        s ← s + g²,   w ← w - lr / (1 + (t - 1) η) · g / (√s + ε)

    Args:
        params: parameters, or groups.
        lr: rate.
        lr_decay: η.
        weight_decay: λ; in the gradient for dense parameters as in ``torch.optim.Adagrad``, decoupled for rows.
        initial_accumulator_value: of s. 1 in the code of Józefowicz et al. 2016, with a rate of 0.2.
        eps: ε.
        per_row: parameters of sparse gradients have one s a row, of which the mean of g² over the row is added: D times
            less state.

    State: ``step``, ``sum`` ([V, D], or [V, 1] with ``per_row``); with decay ``row_log_decay``.

    Raises:
        ValueError: for settings that cannot work.

    >>> weight = torch.nn.Parameter(torch.ones(4, 2))
    >>> weight.grad = torch.sparse_coo_tensor([[2]], [[1.0, 2.0]], (4, 2))
    >>> RowAdagrad([weight], lr=0.5).step()
    >>> weight.detach()[1:3]
    tensor([[1.0000, 1.0000],
            [0.5000, 0.5000]])
    """

    state_names: ClassVar[tuple[str, ...]] = ("sum",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        per_row: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps, "per_row": per_row,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            check_number(name, group[name])
        check_flags(group, "per_row")

    def _start(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        by_row = group["per_row"] and p.grad is not None and p.grad.is_sparse and p.ndim > 1
        shape = [len(p)] + [1] * (p.ndim - 1) if by_row else list(p.shape)
        state["sum"] = torch.full(shape, group["initial_accumulator_value"], dtype=p.dtype, device=p.device)

    def _is_by_rows(self, p: Tensor, state: dict[str, Any]) -> bool:
        return super()._is_by_rows(p, state) or state["sum"].shape != p.shape

    def _dense(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        adagrad(
            parameters, gradients, [state["sum"] for state in states],
            [state["step"] for state in states], lr=float(group["lr"]), weight_decay=group["weight_decay"],
            lr_decay=group["lr_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip

    def _rows(
        self, p: Tensor, ids_R: Tensor, g_RD: Tensor, gap_R: Tensor | None, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        rate = float(group["lr"]) / (1.0 + (int(state["step"]) - 1) * group["lr_decay"])
        sums = state["sum"]
        s_RD = sums.index_select(0, ids_R)
        if sums.shape == p.shape:
            s_RD.addcmul_(g_RD, g_RD)
        else:
            s_RD += g_RD.square().flatten(1).mean(1).view_as(s_RD)
        sums.index_copy_(0, ids_R, s_RD)
        w_RD = p.index_select(0, ids_R)
        p.index_copy_(0, ids_R, w_RD.addcdiv_(g_RD, s_RD.sqrt_().add_(group["eps"]), value=-rate))


class RowAdam(RowOptimizer):
    """Adam with decoupled weight decay, of rows or dense parameters (torch's AdamW).

        m ← β₁^Δ m + (1 - β₁) g,   v ← β₂^Δ v + (1 - β₂) g²
        w ← w - lr (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    Δ are the steps since the row's last gradient, t those of the parameter. Adam divides the update of a rare row by
    the root of little more than its own square: isolated gradients move it by up to (1 - β₁) / √(1 - β₂) · lr.

    Args:
        params: parameters, or groups.
        lr: rate.
        betas: β₁, β₂.
        eps: ε.
        weight_decay: λ.
        moments: ``decayed`` or ``frozen`` (Δ = 1); see the module.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``; for rows ``row_step``; with decay ``row_log_decay``.

    Raises:
        ValueError: for settings that cannot work.

    >>> weight = torch.nn.Parameter(torch.ones(4, 2))
    >>> weight.grad = torch.sparse_coo_tensor([[2]], [[1.0, 2.0]], (4, 2))
    >>> RowAdam([weight], lr=0.5).step()
    >>> weight.detach()[1:3]
    tensor([[1.0000, 1.0000],
            [0.5000, 0.5000]])
    """

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        moments: Moments = "decayed",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "moments": moments}
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        for index, beta in enumerate(group["betas"]):
            check_number(f"betas[{index}]", beta, below=1.0)
        check_number("eps", group["eps"])

    def _start(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        for name in self.state_names:
            state[name] = torch.zeros_like(p)

    def _moments(self, group: dict[str, Any]) -> dict[str, float]:
        beta1, beta2 = group["betas"]
        return {"exp_avg": beta1, "exp_avg_sq": beta2}

    def _dense(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        adamw(
            parameters, gradients, [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states], amsgrad=False,
            beta1=beta1, beta2=beta2, lr=float(group["lr"]), weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip

    def _rows(
        self, p: Tensor, ids_R: Tensor, g_RD: Tensor, gap_R: Tensor | None, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        step = int(state["step"])
        m_RD = state["exp_avg"].index_select(0, ids_R).mul_(power(beta1, gap_R, p)).add_(g_RD, alpha=1 - beta1)
        state["exp_avg"].index_copy_(0, ids_R, m_RD)
        v_RD = state["exp_avg_sq"].index_select(0, ids_R).mul_(power(beta2, gap_R, p))
        state["exp_avg_sq"].index_copy_(0, ids_R, v_RD.addcmul_(g_RD, g_RD, value=1 - beta2))
        denominator_RD = v_RD.div_(1 - beta2**step).sqrt_().add_(group["eps"])
        w_RD = p.index_select(0, ids_R)
        rate = float(group["lr"]) / (1 - beta1**step)
        p.index_copy_(0, ids_R, w_RD.addcdiv_(m_RD, denominator_RD, value=-rate))
