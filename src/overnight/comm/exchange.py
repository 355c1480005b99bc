"""The gradients of one DDP bucket as one packed buffer, and back.

Shape suffixes: R rows exchanged, D the rest of a parameter's shape.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm.checks import (
    meeting,
    model_digest,
    ranks_group,
    refuse_sparse,
    refuse_unknown_sparse,
    release,
    same_everywhere,
    sparse_parameters,
    take,
    timeout_of,
)
from overnight.comm.meter import Meter
from overnight.comm.plan import HiddenRows, Plan, Rows, Rule, Whole, rule_blocks, units
from overnight.comm.residual import Residual, ResidualMode
from overnight.comm.row_sets import RowSet, SampledRows, draw, join, touched_rows
from overnight.errors import UserError


@dataclass(frozen=True)
class Piece:
    """One gradient's part of a packed buffer.

    Attributes:
        ids_R: rows; None for all.
        send: what this rank sends, not yet divided by the ranks or rounded.
        settle: called with what was sent after rounding, and what was received.
    """

    ids_R: Tensor | None
    send: Tensor
    settle: Callable[[Tensor, Tensor], None] | None = None


class SampledState:
    """The state of ``sampled_hook``: the plan, the step, and what each rank has not exchanged yet.

    Args:
        model: DDP; or the model, before it is wrapped.
        plan: which rows.
        process_group: of the ranks; None is the default one.
        data: identity of the data, compared over the ranks.
        loss_scale: factor of the loss, such as ``GradScaler.get_scale``; residuals are kept without it.
        timeout_seconds: after which a rank gives up on the others.

    Attributes:
        step: exchanges that are done; rows of step t are drawn from (seed, t).
        touched: name → rows that the last exchange moved, of parameters of which the batch has a say.
        meter: of seconds in which ranks wait for each other's ids.

    Raises:
        UserError: on every rank, if models, plans, data or versions of torch differ; if the plan does not fit the
            model; for sparse gradients; for a model that has a state already; without a process group.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        *,
        process_group: dist.ProcessGroup | None = None,
        data: str = "",
        loss_scale: Callable[[], float] | None = None,
        timeout_seconds: float = 300.0,
        sparse: bool = False,
    ) -> None:
        self.group = ranks_group(process_group)
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        self.timeout, self.members = timeout_of(timeout_seconds), dist.get_process_group_ranks(self.group)
        digests = {"model": model_digest(inner), "plan": plan.digest(), "data": data, "torch": torch.__version__}
        with meeting():
            self.cpu_group = dist.new_group(self.members, self.timeout, "gloo")
            same_everywhere("sampled gradients", digests, self.cpu_group)
        self.named = {name: p for name, p in inner.named_parameters() if p.requires_grad}
        plan.check(self.named.items())
        if not sparse:
            refuse_sparse(inner)
        take(model)
        known = {id(p) for p in sparse_parameters(inner).values()}
        self._looking = refuse_unknown_sparse(p for p in self.named.values() if id(p) not in known)
        self.model, self.plan, self.step = inner, plan, 0
        self.ranks, self.rank = self.group.size(), self.group.rank()
        self.residual = Residual(self.group, loss_scale)
        self.touched: dict[str, int] = {}
        self.meter: Meter | None = None
        self._names = {id(p): name for name, p in self.named.items()}
        self._announced: dict[str, list[Tensor]] = {}
        self._sets: dict[tuple[int, int], RowSet] = {}
        self.sampling: set[str] = set()
        self._under_way = False
        self._finish: list[Callable[[], None]] = []
        self._failed: list[Callable[[], None]] = []
        self._samplers: list[tuple[nn.Module, Any, Any]] = []
        try:
            self._sample()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give output layers their own samples back, and let the model be registered again."""
        for module, sampler, samples in self._samplers:
            module.sampler, module.samples = sampler, samples
        self._samplers.clear()
        for handle in self._looking:
            handle.remove()
        release(self.model)

    def announce(self, name: str, ids: Tensor) -> None:
        """Say which rows of a dense gradient the batch needs, in place of those that are not zero.

        Every rank must, before the backward that exchanges; several calls of a step add up.

        Args:
            name: of a parameter with a ``Rows`` rule.
            ids: rows, of any shape.
        """
        if not isinstance(self.plan.rule(name), Rows) or name not in self.named:
            raise UserError(f"{name!r} is no parameter of which the plan exchanges rows.", "Check its name and rule.")
        self._announced.setdefault(name, []).append(ids.detach().flatten())

    def row_set(self, name: str) -> RowSet | None:
        """The frequent and drawn units of this step; None for parameters without a rule of rows."""
        rule = self.plan.rule(name)
        if rule is None or isinstance(rule, Whole):
            return None
        count = units(name, self.named[name], rule)
        key = (count, id(rule))
        if key not in self._sets:
            self._sets[key] = draw(count, rule, self.plan.seed, self.step)
        return self._sets[key]

    def begin(self, again: bool = False) -> bool:
        """An exchange of this backward is started; at its end, the step is. Returns whether it is the first.

        Args:
            again: this can only be a new backward, whatever became of the one before.
        """
        first = not self._under_way
        if first or again:
            self._under_way = True
            # as DDP does it, to wait for its buckets
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
        return first

    def undo(self) -> None:
        """After a backward whose update is not made, such as one that is not finite: residuals get their rows back.

        Every rank must, before the next exchange; that step's finite gradients then stay in its residual.
        """
        self.residual.undo()

    def on_end(self, work: Callable[[], None], failed: Callable[[], None]) -> None:
        """Do ``work`` at the end of every backward that exchanges, and ``failed`` after one that did not end."""
        self._finish.append(work)
        self._failed.append(failed)

    def forget_failed(self) -> None:
        """Outside a backward: if one was begun and has failed, begin anew."""
        if self._under_way:
            self._under_way = False
            for work in self._failed:
                work()

    def _end(self) -> None:
        if not self._under_way:
            return
        for work in self._finish:
            work()
        self._under_way = False
        self.step += 1
        self._sets.clear()
        self._announced.clear()

    def pack(self, tensor: Tensor, gradient: Tensor) -> Piece:
        """What of this parameter's gradient is sent.

        Args:
            tensor: the parameter.
            gradient: dense.
        """
        name = self._names[id(tensor)]
        rule: Rule | None = self.plan.rule(name)
        if rule is None or isinstance(rule, Whole):
            return Piece(None, gradient)
        ids_R, chance_R = self._rows(name, rule, gradient)
        lossless = ids_R is None and self.plan.dtype is None and name not in self.residual.kept
        if rule.compensation == "residual" and not lossless:
            finite = self.residual.add(name, gradient)
            send, settle = self.residual.take(name, ids_R, finite)
            return Piece(ids_R, send, settle)
        if ids_R is None:
            return Piece(None, gradient)
        send = gradient.index_select(0, ids_R)
        if rule.compensation == "inverse":
            send /= chance_R.to(send).view(-1, *[1] * (send.ndim - 1))
        return Piece(ids_R, send)

    def flat(self, sends: list[Tensor]) -> Tensor:
        """One buffer, divided by the ranks, in the type that is exchanged."""
        # multiplied, as DDP does it: a division by three ranks is another number
        packed = torch.cat([send.reshape(-1) for send in sends]).mul_(1.0 / self.ranks)
        return packed.to(torch.bfloat16) if self.plan.dtype == "bf16" and packed.is_floating_point() else packed

    def _rows(self, name: str, rule: Rows | HiddenRows, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        found = self._set_of(name)
        ids, chance, rows = found.ids_R, found.chance_R, len(gradient)
        if isinstance(rule, HiddenRows):
            blocks = torch.arange(rule_blocks(rule))[:, None] * (rows // rule.blocks)
            ids, chance = (blocks + ids).flatten(), chance.repeat(rule.blocks)
        elif self.joins(name):
            of_batch = self._of_batch(name, gradient)
            chances = torch.zeros(rows, dtype=torch.float64)
            chances[ids] = chance
            chances[of_batch] = 1.0
            ids = chances.nonzero()[:, 0]
            chance = chances[ids]
            self.touched[name] = len(ids)
        return (None if len(ids) == rows else ids.to(gradient.device)), chance

    def _of_batch(self, name: str, gradient: Tensor) -> Tensor:
        if name in self._announced:
            return self.join(torch.cat(self._announced[name]).unique().cpu())
        mine = touched_rows(gradient).cpu()
        # those that are drawn are exchanged anyhow
        return self.join(mine[~torch.isin(mine, self._set_of(name).ids_R)])

    def joins(self, name: str) -> bool:
        """Whether the exchange of this dense gradient joins the ranks' ids."""
        rule = self.plan.rule(name)
        return isinstance(rule, Rows) and (rule.touched or name in self._announced)

    def join(self, ids_R: Tensor) -> Tensor:
        """All ranks' ids, rising, without repetition; every rank must call it."""
        with nullcontext() if self.meter is None else self.meter.waiting():
            return join(ids_R, self.cpu_group)

    def _sample(self) -> None:
        """Let output layers that sample take the rows of the plan."""
        for prefix, module in self.model.named_modules():
            name = self._names.get(id(getattr(module, "weight", None)))
            rule = None if name is None else self.plan.rule(name)
            if (
                name is not None
                and isinstance(rule, Rows)
                and hasattr(module, "sampler")
                and hasattr(module, "samples")
            ):
                if not getattr(module, "unique", True):
                    raise UserError(
                        f"The output layer {prefix or name} draws with replacement, the plan's rows are drawn without.",
                        "Make it with unique=True, or leave it out of the plan.",
                    )
                rows = SampledRows(partial(self._set_of, name), len(self.named[name]))
                self._samplers.append((module, module.sampler, module.samples))
                module.sampler, module.samples = rows, rows.count
                self.sampling.add(name)

    def _set_of(self, name: str) -> RowSet:
        found = self.row_set(name)
        assert found is not None
        return found

    def state_dict(self, residual: ResidualMode = "flush") -> dict[str, Any]:
        """Plan, step and residual, to be saved with a checkpoint.

        Args:
            residual: see ``ResidualMode``. With ``flush`` all ranks must call this, and one may save it; with
                ``per_rank`` each saves its own.
        """
        return {
            "plan": self.plan.digest(),
            "step": self.step,
            "mode": residual,
            "ranks": self.ranks,
            "rank": self.rank,
            "residual": self.residual.saved(residual),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            UserError: for one of another plan or model; or saved ``per_rank`` by other ranks than this.
        """
        if saved["plan"] != self.plan.digest():
            raise UserError("The saved state is of another plan.", "Resume with the plan that the run began with.")
        if saved["mode"] == "per_rank" and (saved["ranks"], saved["rank"]) != (self.ranks, self.rank):
            raise UserError(
                f"The saved residual is of rank {saved['rank']} of {saved['ranks']}, "
                f"this is rank {self.rank} of {self.ranks}.",
                "Load each rank's own, or save with residual='flush' to resume on any number of ranks.",
            )
        self.residual.load(saved["residual"], self.named)
        self.step = int(saved["step"])
        self._sets.clear()
