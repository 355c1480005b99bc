"""How far the ranks have moved on average: packed into buckets, exchanged by all-reduce, rounded without loss.

Shape suffixes: R rows exchanged, D the rest of a tensor's shape.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.comm.meter import Meter
from overnight.comm.residual import Residual
from overnight.errors import UserError

BUCKET_BYTES = 25 * 2**20
"""Of one all-reduce, as in DDP; a larger tensor is an all-reduce of its own."""


@dataclass(frozen=True)
class Moved:
    """The mean displacement of one tensor: of the rows ``rows_R`` [R, …], the others have not moved; of all if None."""

    name: str
    rows_R: Tensor | None
    delta: Tensor


@dataclass(frozen=True)
class _Bucket:
    """An all-reduce under way; what it sums up is to be read once ``work`` is done."""

    names: list[str]
    rows: list[Tensor | None]
    shapes: list[torch.Size]
    packed: Tensor
    left: dict[str, Tensor]
    work: dist.Work | None


class Displacements:
    """Exchanges θ - θ_r of every tensor, where θ is common to all ranks and θ_r is where rank r is now.

    Args:
        group: of the ranks.
        common: name → θ, in one order on all ranks.
        sparse: of these, those of which few rows move: exchanged are the rows that moved on any rank.
        rounded: of these, those that are exchanged in bfloat16. What a rank's rounding takes away is in ``residual``,
            and belongs to its next displacement.
        meter: counts bytes and seconds.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        common: Mapping[str, Tensor],
        *,
        sparse: list[str],
        rounded: list[str],
        meter: Meter | None = None,
    ) -> None:
        self.group, self.ranks, self.common, self.meter = group, group.size(), common, meter
        self.residual = Residual(group)
        self._sparse, self._rounded = sparse, set(rounded)
        self._buckets = self._planned()

    def mean(self, local: Mapping[str, Tensor]) -> list[Moved]:
        """Mean over the ranks of θ - θ_r. Every rank must call this.

        Args:
            local: name → θ_r, perhaps less precise than θ; then displacements are from where θ was rounded to.

        Raises:
            UserError: on every rank, if a displacement is not finite; the residual is then as it was.
        """
        rows = self._moved_rows(local)
        under_way = [self._start(names, local, rows) for names in self._buckets]
        for bucket in under_way:
            if bucket.work is not None:
                bucket.work.wait()
        if not all(bool(torch.isfinite(bucket.packed).all()) for bucket in under_way):
            raise UserError(
                "Weights of at least one rank are not finite after its local steps.",
                "Lower the inner learning rate or clip gradients, and start again from the last checkpoint.",
            )
        moved = []
        for bucket in under_way:
            self.residual.kept |= bucket.left
            parts = bucket.packed.split([shape.numel() for shape in bucket.shapes])
            for name, rows_R, shape, part in zip(bucket.names, bucket.rows, bucket.shapes, parts, strict=True):
                moved.append(Moved(name, rows_R, part.view(shape).to(self.common[name].dtype)))
        return moved

    def _planned(self) -> list[list[str]]:
        """Names of the tensors that are packed together."""
        buckets: list[list[str]] = []
        last, size = None, 0
        for name, tensor in self.common.items():
            kind, more = (tensor.device, tensor.dtype, name in self._rounded), tensor.numel() * tensor.element_size()
            if kind != last or size + more > BUCKET_BYTES:
                buckets.append([])
                size = 0
            buckets[-1].append(name)
            last, size = kind, size + more
        return buckets

    def _start(self, names: list[str], local: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> _Bucket:
        sends, left = [], {}
        for name in names:
            rows_R, delta = rows.get(name), self._displacement(name, local[name])
            own = delta if rows_R is None else delta[rows_R]
            if name not in self._rounded:
                sends.append(own / self.ranks)
                continue
            kept = self.residual.kept.get(name)
            if kept is not None:
                own = own + (kept if rows_R is None else kept[rows_R])
            send = (own / self.ranks).to(torch.bfloat16)
            error = own - send.to(own.dtype) * self.ranks
            if rows_R is not None:
                error = (torch.zeros_like(delta) if kept is None else kept).index_copy(0, rows_R, error)
            sends.append(send)
            left[name] = error
        packed = torch.cat([send.reshape(-1) for send in sends])
        work = self._all_reduce(packed, dist.ReduceOp.SUM) if packed.numel() else None
        return _Bucket(names, [rows.get(name) for name in names], [s.shape for s in sends], packed, left, work)

    def _displacement(self, name: str, local: Tensor) -> Tensor:
        common = self.common[name]
        began = common.to(local.dtype)
        # infinite entries that nobody moved, as masks have them, would give NaN
        return (began.to(common.dtype) - local.to(common.dtype)).masked_fill_(began == local, 0.0)

    def _moved_rows(self, local: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self._sparse:
            return {}
        masks = [
            (self.common[n].to(local[n].dtype) != local[n]).reshape(len(local[n]), -1).any(1) for n in self._sparse
        ]
        joined = torch.cat(masks).to(torch.uint8)
        self._all_reduce(joined, dist.ReduceOp.MAX).wait()
        parts = joined.split([len(mask) for mask in masks])
        return {name: part.nonzero()[:, 0] for name, part in zip(self._sparse, parts, strict=True)}

    def _all_reduce(self, tensor: Tensor, op: Any) -> dist.Work:
        with nullcontext() if self.meter is None else self.meter.counting():
            work: dist.Work = dist.all_reduce(tensor, op, group=self.group, async_op=True)
        if self.meter is not None:
            self.meter.watch(work.get_future())
        return work
