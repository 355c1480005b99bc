"""What ranks are given to do by the tests of residuals, checkpoints and bad gradients."""

from typing import Any

import torch
from comm.work import gradients, ranks, weights
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import HiddenRows, Plan, SampledState, sampled_hook


class Dense(nn.Module):
    """Layers of which hidden rows are exchanged; deterministic, and linear in the loss's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.rnn = nn.LSTM(6, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x_TBD: Tensor) -> Tensor:
        return self.head(self.rnn(x_TBD)[0]).square().sum()


def inputs(step: int, rank: int) -> Tensor:
    return torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(100 * step + rank))


def plan(compensation: Any, dtype: Any = None, rate: float = 0.4) -> Plan:
    return Plan({"rnn.*": HiddenRows(rate, 4, compensation), "head.*": HiddenRows(rate, 1, compensation)}, dtype=dtype)


def wrapped(how: Plan, **state: Any) -> tuple[DistributedDataParallel, SampledState]:
    ddp = DistributedDataParallel(Dense(), bucket_cap_mb=1e-3)
    found = SampledState(ddp, how, **state)
    ddp.register_comm_hook(found, sampled_hook)
    return ddp, found


def accumulated(compensation: str, steps: int, dtype: Any = None, scale: float = 1.0) -> dict[str, Any]:
    """Sums over steps of what was exchanged, and of the local gradients; and what is left at the end."""
    with ranks() as group:
        rank = group.rank()
        scales = [scale]
        ddp, state = wrapped(plan(compensation, dtype), loss_scale=(lambda: scales[0]) if scale != 1.0 else None)
        alone = Dense()
        exchanged = {name: torch.zeros_like(p) for name, p in alone.named_parameters()}
        local = {name: torch.zeros_like(p) for name, p in alone.named_parameters()}
        rows = []
        for step in range(steps):
            if scale != 1.0:
                scales[0] = scale * (1 + step % 2)
            ddp.zero_grad()
            alone.zero_grad()
            (ddp(inputs(step, rank)) * scales[0]).backward()
            alone(inputs(step, rank)).backward()
            for name, gradient in gradients(ddp.module).items():
                exchanged[name] += gradient / scales[0]
            for name, gradient in gradients(alone).items():
                local[name] += gradient
            rows.append(gradients(ddp.module)["rnn.weight_hh_l0"].abs().sum(1).nonzero()[:, 0])
        kept = {name: each.clone() for name, each in state.residual.kept.items()}
        return {"exchanged": exchanged, "local": local, "kept": kept, "rows": rows, "step": state.step}


def with_a_bad_step() -> dict[str, Any]:
    """Rank 1 has a gradient that is not finite in step 1."""
    with ranks() as group:
        ddp, state = wrapped(plan("residual"))
        finite = []
        total = {name: torch.zeros_like(p) for name, p in ddp.module.named_parameters()}
        for step in range(3):
            ddp.zero_grad()
            factor = torch.inf if step == 1 and group.rank() == 1 else 1.0
            (ddp(inputs(step, group.rank())) * factor).backward()
            ok = all(bool(gradient.isfinite().all()) for gradient in gradients(ddp.module).values())
            finite.append(ok)
            if ok:
                for name, gradient in gradients(ddp.module).items():
                    total[name] += gradient
        return {"finite": finite, "total": total, "kept": dict(state.residual.kept)}


def with_a_bad_tensor() -> dict[str, Any]:
    """Rank 1 has a gradient of one parameter that is not finite in step 2; that update is not made."""
    with ranks() as group:
        ddp, state = wrapped(plan("residual"))
        alone = Dense()
        found = {what: {n: torch.zeros_like(p) for n, p in alone.named_parameters()} for what in ("exchanged", "local")}
        for step in range(4):
            ddp.zero_grad()
            alone.zero_grad()
            loss, bad = ddp(inputs(step, group.rank())), step == 2 and group.rank() == 1
            spoil = ddp.module.head.weight.register_hook(lambda gradient: gradient * torch.inf) if bad else None
            loss.backward()
            if spoil is not None:
                spoil.remove()
            alone(inputs(step, group.rank())).backward()
            made = all(bool(gradient.isfinite().all()) for gradient in gradients(ddp.module).values())
            if not made:
                state.undo()
            for name, gradient in gradients(ddp.module).items():
                found["exchanged"][name] += gradient if made else 0.0
            for name, gradient in gradients(alone).items():
                found["local"][name] += 0.0 if bad and name == "head.weight" else gradient
        return found | {"kept": dict(state.residual.kept)}


def trained(saved: Any, first: int, last: int, mode: Any) -> dict[str, Any]:
    """Steps of plain SGD from a saved state or from the start; every rank reads its share of four batches."""
    with ranks() as group:
        rank, world = group.rank(), group.size()
        ddp, state = wrapped(plan("residual"))
        if saved is not None:
            ddp.module.load_state_dict(saved["weights"])
            state.load_state_dict(saved["exchange"])
        for step in range(first, last):
            ddp.zero_grad()
            share = range(rank * 4 // world, (rank + 1) * 4 // world)
            (ddp(torch.cat([inputs(step, part) for part in share], 1)) / len(share)).backward()
            with torch.no_grad():
                for p in ddp.module.parameters():
                    p -= 1e-3 * p.grad
        exchange = state.state_dict(mode)
        kept = {name: each.clone() for name, each in state.residual.kept.items()}
        return {"weights": weights(ddp.module), "exchange": exchange, "kept": kept}
