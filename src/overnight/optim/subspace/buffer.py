"""Past displacements of all parameters, as rows of one matrix a parameter: written, combined and multiplied here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.optim.trust_ratio import local, sharding, sum_of_squares

CHUNK = 1 << 20
"""Elements that are summed in float32 before the sum goes on in float64, and that are converted at a time."""


@dataclass(frozen=True)
class Layout:
    """Which rows there are, in this order: history, anchors, momentum, average, residuals.

    Attributes:
        history: M, how many displacements the ring keeps.
        anchors: an anchor is set to the weights every so many outer iterations.
        momentum: μ of m ← μ m + displacement; 0 for no such row.
        average: whether there is a row x - A for a running average A of the outer points.
        residuals: whether the displacements of the base optimizer alone are kept in a second ring.
    """

    history: int
    anchors: tuple[int, ...] = ()
    momentum: float = 0.0
    average: bool = False
    residuals: bool = False

    @property
    def momentum_row(self) -> int:
        """Its number, where there is one."""
        return self.history + len(self.anchors)

    @property
    def average_row(self) -> int:
        """Its number, where there is one."""
        return self.momentum_row + bool(self.momentum)

    @property
    def first_residual(self) -> int:
        """The row of the second ring's first slot, where there is one."""
        return self.average_row + self.average

    @property
    def rows(self) -> int:
        """How many in all."""
        return self.first_residual + self.residuals * self.history


@dataclass
class Weight:
    """What is moved: a parameter, or the float32 master copy that the base optimizer keeps of it."""

    parameter: Tensor
    master: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """In which sums are made: float32 for a low-precision parameter."""
        kept = self.parameter.dtype
        return torch.float32 if kept in (torch.bfloat16, torch.float16) else kept

    def read(self) -> Tensor:
        """This rank's part in one dimension: a view where it can be one."""
        return local(self.parameter if self.master is None else self.master).detach().reshape(-1).to(self.dtype)

    def write(self, flat: Tensor) -> None:
        """Set this rank's part."""
        here = local(self.parameter).detach()
        here.copy_(flat.view(here.shape))
        if self.master is not None:
            local(self.master).detach().copy_(flat.view(here.shape))


@dataclass
class _Stored:
    point: Tensor
    rows: Tensor


class DisplacementBuffer:
    """The rows of all parameters, and the point that they start from.

    Every tensor is this rank's part of one that is spread as its parameter is. Between boosts ``point`` is where the
    last one ended; during a boost it is where the base optimizer arrived.

    Args:
        layout: which rows.
        dtype: of the rows; None for the parameters' (float32 for bfloat16 and float16 ones).
        device: of rows and point; None for the parameters'.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        self.layout, self.dtype, self.device = layout, dtype, device
        self.stored: list[_Stored] = []
        self.position = -1
        self.filled = 0

    def extend(self, weights: Sequence[Weight]) -> None:
        """Make room for weights that have none yet; the point is where they are now."""
        for weight in weights[len(self.stored) :]:
            x = weight.read()
            point = x.to(self.device or x.device, copy=True)
            rows = torch.zeros(self.layout.rows, x.numel(), dtype=self.dtype or x.dtype, device=point.device)
            self.stored.append(_Stored(point, rows))

    def newest_first(self) -> list[int]:
        """Slots of the ring that hold something."""
        return [(self.position - age) % self.layout.history for age in range(self.filled)]

    def absorb(self, weights: Sequence[Weight], outer: int, average_decay: float | None) -> float:
        """Take the way from the point to the weights as the newest displacement d; the point is then the weights.

        A length of zero, or one that is not finite, writes no row.

        Args:
            weights: where the base optimizer has arrived.
            outer: number of this outer iteration, from 1.
            average_decay: β in A ← β A + (1 - β) x.

        Returns:
            ‖d‖.
        """
        for weight, stored in zip(weights, self.stored, strict=True):
            stored.point.sub_(weight.read().to(stored.point.device))
        length = self._length(weights)
        usable = 0.0 < length < float("inf")
        if usable:
            old = self.position
            self.position = (old + 1) % self.layout.history
            self.filled = min(self.filled + 1, self.layout.history)
        for weight, stored in zip(weights, self.stored, strict=True):
            if usable:
                self._write(stored.rows, stored.point.neg_(), old, outer, average_decay)
            stored.point.copy_(weight.read())
        return length

    def _length(self, weights: Sequence[Weight]) -> float:
        return math.sqrt(float(total(weights, [sum_of_squares(stored.point) for stored in self.stored])))

    def _write(self, rows: Tensor, d: Tensor, old: int, outer: int, average_decay: float | None) -> None:
        layout = self.layout
        if layout.momentum and old >= 0:
            rows[layout.momentum_row].mul_(layout.momentum).add_(rows[old])
        for number, interval in enumerate(layout.anchors, layout.history):
            if (outer - 1) % interval == 0:
                rows[number].zero_()
            rows[number].add_(d)
        if layout.average and average_decay is not None:
            rows[layout.average_row].add_(d).mul_(average_decay)
        rows[self.position].copy_(d)
        if layout.residuals:
            rows[layout.first_residual + self.position].copy_(d)

    def move(self, weights: Sequence[Weight], coefficients: Tensor) -> None:
        """Weights ← point + Σ coefficient · row; exactly the point where all are zero."""
        used = coefficients.nonzero().flatten().tolist()
        for weight, stored in zip(weights, self.stored, strict=True):
            weight.write(self._combined(stored, coefficients, used, weight.parameter.device))

    def _combined(self, stored: _Stored, coefficients: Tensor, used: list[int], device: torch.device) -> Tensor:
        new = stored.point.to(device)
        if not used:
            return new
        new = new.clone() if new is stored.point else new
        c = coefficients.to(device, new.dtype)
        for part, rows in _chunks(stored.rows, device, new.dtype):
            new[part].addmv_(rows.t(), c)
        return new

    def combination(self, weights: Sequence[Weight], coefficients: Tensor) -> Iterator[Tensor]:
        """Σ coefficient · row, of each weight, in the shape and dtype of this rank's part of the parameter."""
        for weight, stored in zip(weights, self.stored, strict=True):
            here = local(weight.parameter)
            c, device = coefficients.to(here.device, weight.dtype), here.device
            parts = [rows.t() @ c for _, rows in _chunks(stored.rows, device, weight.dtype)]
            yield torch.cat(parts).view(here.shape).to(here.dtype) if parts else torch.zeros_like(here)

    def settle(self, weights: Sequence[Weight]) -> None:
        """Go on from where the weights are: the newest displacement, the anchors and the average take the jump in."""
        layout = self.layout
        touched = [self.position, *range(layout.history, layout.momentum_row)] + [layout.average_row] * layout.average
        for weight, stored in zip(weights, self.stored, strict=True):
            new = weight.read().to(stored.point.device)
            jump = new - stored.point
            for row in touched:
                stored.rows[row].add_(jump)
            stored.point.copy_(new)

    def dots(self, weights: Sequence[Weight], vectors: Sequence[Tensor | None]) -> Tensor:
        """Row · vector for every row, summed over the parameters and their shards: float64, [rows]."""
        parts = []
        for stored, vector in zip(self.stored, vectors, strict=True):
            device = stored.point.device if vector is None else vector.device
            sums = torch.zeros(self.layout.rows, dtype=torch.float64, device=device)
            if vector is not None:
                flat = vector.reshape(-1).to(stored.point.dtype)
                for part, rows in _chunks(stored.rows, device, flat.dtype):
                    sums += (rows @ flat[part]).double()
            parts.append(sums)
        return total(weights, parts)

    def gram(self, weights: Sequence[Weight]) -> Tensor:
        """Row · row for every pair, likewise: float64, [rows, rows]."""
        parts = []
        for weight, stored in zip(weights, self.stored, strict=True):
            device = weight.parameter.device
            sums = torch.zeros(self.layout.rows, self.layout.rows, dtype=torch.float64, device=device)
            for _, rows in _chunks(stored.rows, device, weight.dtype):
                sums += (rows @ rows.t()).double()
            parts.append(sums)
        return total(weights, parts)


def _chunks(rows: Tensor, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, rows.shape[1], CHUNK):
        part = slice(start, min(start + CHUNK, rows.shape[1]))
        yield part, rows[:, part].to(device, dtype)


def total(weights: Sequence[Weight], parts: Sequence[Tensor]) -> Tensor:
    """Sums over all parameters, of sums over this rank's parts of them; on the CPU, the same on every rank."""
    by_group: dict[tuple[object, ...], Tensor] = {}
    for weight, part in zip(weights, parts, strict=True):
        where = sharding(weight.parameter).groups
        by_group[where] = by_group[where] + part.to(by_group[where].device) if where in by_group else part
    found = torch.zeros_like(parts[0], device="cpu")
    for groups, here in by_group.items():
        for group in groups:
            dist.all_reduce(here, group=group)
        found += here.cpu()
    return found
