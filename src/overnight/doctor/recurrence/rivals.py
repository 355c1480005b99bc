"""What the recurrence is measured against: the naive eager loop and nn.LSTM.

Shape suffixes as in ``overnight.nn.gates``; U units of a group.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.gates import DenseGates, FactorizedGates, GateMap, GroupedGates, MultiplicativeGates


@dataclass(frozen=True)
class Case:
    """One gate map at one size; steps are bytes, or words."""

    gates: str
    hidden: int
    batch: int
    time: int
    width: int
    output: int
    rank: int
    groups: int

    @property
    def steps(self) -> int:
        return self.batch * self.time

    @property
    def projected(self) -> bool:
        return self.output != self.hidden

    def gate_map(self) -> GateMap:
        sizes = self.width, self.hidden, self.output
        if self.gates == "dense":
            return DenseGates(*sizes)
        if self.gates == "factorized":
            return FactorizedGates(*sizes, rank=self.rank)
        if self.gates == "grouped":
            return GroupedGates(*sizes, groups=self.groups)
        return MultiplicativeGates(*sizes)

    def products(self) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """(output, input) widths of the product over the input, and of the products of a step."""
        hidden, output, rank = self.hidden, self.output, self.rank
        steps = {
            "dense": [(4 * hidden, output)],
            "grouped": [(4 * hidden, output)],
            "factorized": [(rank, output), (4 * hidden, rank)],
            "multiplicative": [(hidden, output), (4 * hidden, hidden)],
        }[self.gates]
        widths = {"factorized": rank, "multiplicative": 5 * hidden}
        over_input = widths.get(self.gates, 4 * hidden), self.width
        return over_input, steps + ([(output, hidden)] if self.projected else [])

    def flops(self, backward: bool) -> float:
        """Of all products; a multiplication and an addition count as two, the backward as twice the forward."""
        over_input, steps = self.products()
        cut = self.groups if self.gates == "grouped" else 1
        weights = sum(out * into for out, into in (over_input, *steps)) / cut
        if self.projected:
            weights += self.output * self.hidden * (1 - 1 / cut)  # the projection is not grouped
        return 2.0 * weights * self.steps * (3 if backward else 1)


class NaiveLoop(nn.Module):
    """The loop that one writes first, in its good form: projections of the input before the loop, unbound (indexing
    them costs 6 to 8 times in the backward), weights normalised and cast once a forward, autograd over all the rest."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        hidden, width, output, rank, groups = case.hidden, case.width, case.output, case.rank, case.groups
        shapes_of: dict[str, list[tuple[int, ...]]] = {
            "dense": [(4 * hidden, width), (4 * hidden, output)],
            "factorized": [(rank, width), (rank, output), (4 * hidden, rank)],
            "grouped": [(groups, 4 * hidden // groups, n // groups) for n in (width, output)],
            "multiplicative": [(4 * hidden, width), (hidden, width), (hidden, output), (4 * hidden, hidden)],
        }
        shapes = shapes_of[case.gates]
        self.v = nn.ParameterList(torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5) for shape in shapes)
        normalised = case.gates == "multiplicative"
        self.g = nn.ParameterList(v.detach().norm(dim=1, keepdim=True) for v in self.v) if normalised else None
        self.bias = nn.Parameter(torch.zeros(groups, 1, 4 * hidden // groups) if case.gates == "grouped"
                                 else torch.zeros(4 * hidden))  # fmt: skip
        self.projection = nn.Parameter(torch.randn(output, hidden) * hidden**-0.5) if case.projected else None

    def forward(self, x_TBD: Tensor) -> Tensor:
        kind, case = x_TBD.device.type, self.case
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_TBD.dtype
        w = [v if self.g is None else self.g[i] * v / v.norm(dim=1, keepdim=True) for i, v in enumerate(self.v)]
        w, bias = [one.to(dtype) for one in w], self.bias.to(dtype)
        projection = None if self.projection is None else self.projection.to(dtype)
        if case.gates == "grouped":
            return self._grouped(x_TBD.to(dtype), w, bias, projection)
        first = F.linear(x_TBD, w[0], None if case.gates == "factorized" else bias).unbind(0)
        second = F.linear(x_TBD, w[1]).unbind(0) if case.gates == "multiplicative" else first
        h, c = x_TBD.new_zeros(case.batch, case.output), x_TBD.new_zeros(case.batch, case.hidden)
        outputs = []
        for p, p_m in zip(first, second, strict=True):
            if case.gates == "dense":
                z = p + F.linear(h, w[1])
            elif case.gates == "factorized":
                z = F.linear(p + F.linear(h, w[1]), w[2], bias)
            else:
                z = p + F.linear(p_m * F.linear(h, w[2]), w[3])
            h, c = naive_cell(z, c)
            h = h if projection is None else F.linear(h, projection)
            outputs.append(h)
        return torch.stack(outputs)

    def _grouped(self, x_TBD: Tensor, w: list[Tensor], bias: Tensor, projection: Tensor | None) -> Tensor:
        case, groups = self.case, self.case.groups
        x_KRD = x_TBD.reshape(case.steps, groups, -1).transpose(0, 1)
        p = torch.baddbmm(bias, x_KRD, w[0].transpose(1, 2)).view(groups, case.time, case.batch, -1).unbind(1)
        h = x_TBD.new_zeros(groups, case.batch, case.output // groups)
        c = x_TBD.new_zeros(groups, case.batch, case.hidden // groups, dtype=torch.float32)
        outputs = []
        for p_KBM in p:
            h_KBU, c = naive_cell(torch.baddbmm(p_KBM, h.to(p_KBM.dtype), w[1].transpose(1, 2)), c)
            y = h_KBU.transpose(0, 1).reshape(case.batch, case.hidden)
            y = y if projection is None else F.linear(y, projection)
            h = y.view(case.batch, groups, -1).transpose(0, 1)
            outputs.append(y)
        return torch.stack(outputs)


def naive_cell(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations and the last c → (h, c), as one writes it first."""
    i, f, g, o = z.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class TorchLSTM(nn.Module):
    """nn.LSTM of the same sizes, which is the dense map; beside the other maps it does another amount of arithmetic."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.lstm = nn.LSTM(case.width, case.hidden, proj_size=case.output if case.projected else 0)

    def forward(self, x_TBD: Tensor) -> Tensor:
        h_TBN: Tensor = self.lstm(x_TBD)[0]
        return h_TBN
