"""Sparse gradients of rows, which DDP has no buckets for: joined over the ranks, packed, exchanged while backward runs.

Shape suffixes: V rows of a parameter, R those of the step on any rank, L those of this rank, D the rest of the shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from overnight.comm.checks import failed
from overnight.comm.exchange import SampledState
from overnight.comm.meter import Meter
from overnight.comm.plan import HiddenRows, Whole
from overnight.comm.row_sets import touched_rows
from overnight.errors import UserError


@dataclass
class RowGroup:
    """Parameters that are exchanged together since they have the same rows, as an output's weight and bias.

    Attributes:
        names, parameters: theirs.
        arrived: ids of those whose gradient of this backward is there.
    """

    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    arrived: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Launched:
    group: RowGroup
    ids_R: Tensor
    packed: Tensor
    work: dist.Work | None


class RowExchange:
    """Exchanges row gradients as they come, in one order on all ranks, and puts their mean into ``p.grad``.

    Where the rows of dense gradients are joined over the ranks too, these come at the end of backward.

    Args:
        state: of the whole exchange.
        parameters: with sparse gradients, by name.
        model: of which they are.
        group: of the ranks, for rows alone: the order of these exchanges among DDP's is not the same on all ranks.
        meter: counts them.

    Raises:
        UserError: for a rule of hidden rows.
    """

    def __init__(
        self,
        state: SampledState,
        parameters: Mapping[str, nn.Parameter],
        model: nn.Module,
        group: dist.ProcessGroup,
        meter: Meter | None,
    ) -> None:
        for name in parameters:
            if isinstance(state.plan.rule(name), HiddenRows):
                raise UserError(
                    f"The gradient of {name} is sparse, and the plan takes it for hidden rows.",
                    "Give it a Rows rule, or none: what is exchanged are the rows that any rank has.",
                )
        self.state, self.process_group, self.meter = state, group, meter
        # the output layer's come first in backward
        self.groups = list(reversed(_grouped(parameters, model)))
        self.syncing = True
        self._dense = [name for name in state.named if name not in parameters]
        self._launched: list[_Launched] = []
        self.handles = [
            parameter.register_post_accumulate_grad_hook(lambda p, of=of: self._arrived(p, of))
            for of in self.groups
            for parameter in of.parameters
        ]
        state.on_end(self._finish, self.reset)

    def reset(self) -> None:
        """Forget a backward that failed."""
        self._launched.clear()
        for group in self.groups:
            group.arrived.clear()

    def _arrived(self, parameter: Tensor, group: RowGroup) -> None:
        if not self.syncing:
            return
        if self.state.begin() and self.meter is not None:
            self.meter.step()
        if any(self.state.joins(name) for name in self._dense):
            return  # DDP's hooks join ids too: a rank that does not use these parameters would do so in another order
        group.arrived.add(id(parameter))
        while len(self._launched) < len(self.groups):
            following = self.groups[len(self._launched)]
            if len(following.arrived) < len(following.parameters):
                break
            self._launch(following)

    def _launch(self, group: RowGroup) -> None:
        try:
            if self.meter is None:
                self._launched.append(self._start(group))
                return
            with self.meter.counting():
                self._launched.append(self._start(group))
        except RuntimeError as error:
            raise failed(error, f"The exchange of {group.names[0]}") from error
        work = self._launched[-1].work
        if work is not None:
            self.meter.watch(work.get_future())

    def _start(self, group: RowGroup) -> _Launched:
        gradients = [_rows(p) for p in group.parameters]
        ids_R = self._joined(group, [ids for ids, _ in gradients]).to(gradients[0][0].device)
        buffers = []
        for parameter, (ids_L, values_LD) in zip(group.parameters, gradients, strict=True):
            packed_RD = values_LD.new_zeros(len(ids_R), *parameter.shape[1:])
            buffers.append(packed_RD.index_copy_(0, torch.searchsorted(ids_R, ids_L), values_LD))
        packed = self.state.flat(buffers)
        for name in group.names:
            self.state.touched[name] = len(ids_R)
        work = dist.all_reduce(packed, group=self.process_group, async_op=True) if len(ids_R) else None
        return _Launched(group, ids_R, packed, work)

    def _joined(self, group: RowGroup, ids: list[Tensor]) -> Tensor:
        if any(isinstance(self.state.plan.rule(name), Whole) for name in group.names):
            return torch.arange(len(group.parameters[0]))
        mine = torch.cat(ids).cpu().unique()
        certain = next((self.state.row_set(name) for name in group.names if name in self.state.sampling), None)
        if certain is None:
            return self.state.join(mine)
        others = self.state.join(mine[~torch.isin(mine, certain.ids_R)])
        joined: Tensor = torch.cat([certain.ids_R, others]).unique()
        return joined

    def _finish(self) -> None:
        """At the end of backward: exchange what did not come on this rank, and wait."""
        if not self.syncing:
            return
        for group in self.groups[len(self._launched) :]:
            self._launch(group)
        for launched in self._launched:
            if launched.work is not None:
                try:
                    launched.work.wait()
                except RuntimeError as error:
                    raise failed(error, f"The exchange of {launched.group.names[0]}") from error
            _unpack(launched)
        self.reset()


def _unpack(launched: _Launched) -> None:
    ids_R, start = launched.ids_R, 0
    for parameter in launched.group.parameters:
        size = len(ids_R) * (parameter.numel() // len(parameter))
        values_RD = launched.packed[start : start + size].to(parameter.dtype).view(len(ids_R), *parameter.shape[1:])
        start += size
        parameter.grad = torch.sparse_coo_tensor(
            ids_R[None], values_RD, parameter.shape, is_coalesced=True, check_invariants=False
        )


def _rows(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Rising ids [L] and values [L, …] of a gradient that is sparse, dense, or not there."""
    gradient = parameter.grad
    if gradient is None:
        none = torch.empty(0, dtype=torch.int64, device=parameter.device)
        return none, parameter.detach()[:0]
    if not gradient.is_sparse:  # of a loss over all words
        ids_L = touched_rows(gradient)
        return ids_L, gradient.index_select(0, ids_L)
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


def _grouped(parameters: Mapping[str, nn.Parameter], model: nn.Module) -> list[RowGroup]:
    """Parameters of one module and as many rows together, once each; in the order of their modules."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups: list[RowGroup] = []
    of: dict[int, RowGroup] = {}
    for module in model.modules():
        mine = [p for p in module.parameters(recurse=False) if id(p) in names]
        for rows in dict.fromkeys(len(p) for p in mine):
            alike = [p for p in mine if len(p) == rows]
            group = next((of[id(p)] for p in alike if id(p) in of), None)
            if group is None:
                group = RowGroup()
                groups.append(group)
            for parameter in alike:
                if id(parameter) not in of:
                    of[id(parameter)] = group
                    group.names.append(names[id(parameter)])
                    group.parameters.append(parameter)
    return groups
