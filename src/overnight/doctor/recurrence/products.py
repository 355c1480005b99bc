"""The floor of a recurrence: its matrix products alone. Shape suffixes as in ``overnight.nn.gates``; I and O the widths
of a weight, K groups, R rows."""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from overnight.doctor.recurrence.rivals import Case
from overnight.nn.fast.packed import PackedMatrix, can_pack, transposed_product


class ProductsOnly:
    """The same products with no cell at all: those of a step one after another, the weight gradients and the input's
    products over all steps at once.

    Weights are packed once a call, or nothing is packed, whichever a trial finds faster; each direction has its own
    trial. Packing pays at large sizes; at small ones its calls cost more than the products.
    """

    def __init__(self, case: Case, dtype: torch.dtype, device: str) -> None:
        over_input, self.time = case.products()[0], case.time
        cut = case.groups if case.gates == "grouped" else 1
        sizes = [(*size, cut) for size in case.products()[1]]
        if case.projected:
            sizes[-1] = (*sizes[-1][:2], 1)

        def new(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).mul_(0.1).to(dtype)

        self.weights = [new(k, out // k, into // k) for out, into, k in sizes]
        self.inputs = [new(case.time, k, case.batch, into // k) for _, into, k in sizes]
        self.gradients = [new(case.time, k, case.batch, out // k) for out, _, k in sizes]
        self.input_weight = new(cut, over_input[0] // cut, over_input[1] // cut)
        self.x, self.dp = new(cut, case.steps, case.width // cut), new(cut, case.steps, over_input[0] // cut)
        packable = can_pack(self.input_weight)
        self.pack_forward = packable and packing_is_faster(self._forward)
        self.pack_both = packable and packing_is_faster(self._forward_backward)

    def forward(self) -> None:
        self._forward(self.pack_forward)

    def forward_backward(self) -> None:
        self._forward_backward(self.pack_both)

    def _forward(self, pack: bool) -> None:
        _multiply(self.x, self.input_weight, pack)
        _over_steps(self.weights, self.inputs, range(self.time), pack)

    def _forward_backward(self, pack: bool) -> None:
        self._forward(pack)
        back = [weight.transpose(1, 2) for weight in reversed(self.weights)]
        _over_steps(back, self.gradients[::-1], range(self.time - 1, -1, -1), pack)
        for x, dy in zip(self.inputs, self.gradients, strict=True):
            _weight_gradient(_rows(dy), _rows(x), pack)
        _weight_gradient(self.dp, self.x, pack)
        _multiply(self.dp, self.input_weight.transpose(1, 2), pack)


def packing_is_faster(work: Callable[[bool], None], seconds: float = 0.1) -> bool:
    """Whether ``work(True)`` is faster than ``work(False)``: the least times of turns over some seconds, at least one
    turn each."""
    least = {True: math.inf, False: math.inf}
    started = time.perf_counter()
    while math.isinf(least[False]) or time.perf_counter() - started < seconds:
        for pack in least:
            before = time.perf_counter()
            work(pack)
            least[pack] = min(least[pack], time.perf_counter() - before)
    return least[True] < least[False]


def _over_steps(weights: list[Tensor], inputs: list[Tensor], order: range, pack: bool) -> None:
    products: list[tuple[Callable[[Tensor], Tensor], Sequence[Tensor]]] = []
    for weight, x in zip(weights, inputs, strict=True):
        if len(weight) > 1:
            products.append((_batched(weight.transpose(1, 2).contiguous()), x.unbind(0)))
        elif pack:
            products.append((PackedMatrix(weight[0], x.shape[2]), x[:, 0].unbind(0)))
        else:
            products.append((_plain(weight[0].t()), x[:, 0].unbind(0)))
    for t in order:
        for product, steps in products:
            product(steps[t])


def _plain(weight_IO: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x_BI: torch.mm(x_BI, weight_IO)


def _batched(weight_KIO: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x_KBI: torch.bmm(x_KBI, weight_KIO)


def _multiply(x_KRI: Tensor, weight_KOI: Tensor, pack: bool) -> None:
    if len(weight_KOI) > 1:
        torch.bmm(x_KRI, weight_KOI.transpose(1, 2))
    elif pack:
        PackedMatrix(weight_KOI[0], x_KRI.shape[1])(x_KRI[0])
    else:
        torch.mm(x_KRI[0], weight_KOI[0].t())


def _weight_gradient(dy_KRO: Tensor, x_KRI: Tensor, pack: bool) -> None:
    if len(x_KRI) > 1:
        torch.bmm(dy_KRO.transpose(1, 2), x_KRI)
    elif pack:
        transposed_product(dy_KRO[0], x_KRI[0])
    else:
        torch.mm(dy_KRO[0].t(), x_KRI[0])


def _rows(x_TKBI: Tensor) -> Tensor:
    """[K, T·B, I]; a view for one group."""
    return x_TKBI.transpose(0, 1).flatten(1, 2)
