"""A weight matrix laid out once for many products with the same weights.

On CPUs, oneDNN copies a plain weight into its own block layout on every product; over the steps of a recurrence that is
the same copy again and again, and in float32 the plain product may take another library's slower kernel. Packing once
a call gave 1.4 to 2 times the rate in bf16 and 3.5 times in float32 (docs/results.md). Elsewhere, for other dtypes, and
where the products to come are too few or too small to be worth it, this is a plain product.

Shape suffixes: B rows, I and O the weight's input and output width.
"""

import logging
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedMatrix:
    """x ↦ x Wᵀ and (x, p) ↦ p + x Wᵀ for one W.

    Args:
        weight_OI: W.
        rows: B of the products to come; the layout may depend on it.
        steps: how many products are to come; None for so many that the packing does not count.

    >>> weight = torch.tensor([[1.0, 2.0]])
    >>> PackedMatrix(weight, rows=1)(torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """

    def __init__(self, weight_OI: Tensor, rows: int, steps: int | None = None) -> None:
        self._weight_IO = weight_OI.t()
        self._packed: Tensor | None = None
        if rows and (steps is None or _pays(weight_OI, rows, steps)) and can_pack(weight_OI):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), rows)

    def __call__(self, x_BI: Tensor) -> Tensor:
        """x Wᵀ."""
        if self._packed is None:
            return torch.mm(x_BI, self._weight_IO)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, self._packed, None, "none", [], "")
        return product

    def add(self, p_BO: Tensor, x_BI: Tensor) -> Tensor:
        """p + x Wᵀ."""
        if self._packed is None:
            return torch.addmm(p_BO, x_BI, self._weight_IO)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_BI, p_BO, self._packed, None, "add")
        return total


def transposed_product(a_BO: Tensor, b_BI: Tensor) -> Tensor:
    """aᵀ b, as a weight gradient wants it.

    In float32 by oneDNN where it is there: on an AMD CPU, whose plain product is another library's, that is 1.4 to 1.7
    times as fast; in bf16 the plain product is (docs/results.md).

    >>> transposed_product(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
    tensor([[11.]])
    """
    if a_BO.dtype != torch.float32 or not (len(a_BO) and can_pack(a_BO) and can_pack(b_BI)):
        return a_BO.t() @ b_BI
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a_BO.t(), b_BI.t(), None, "none", [], "")
    return product


def _pays(weight_OI: Tensor, rows: int, steps: int) -> bool:
    """Whether packing takes less time than ``steps`` products with packed weights save.

    Of one thread of an AMD CPU with AVX512-BF16, fastest of 12 or 40 in turn, in microseconds:

        dtype    rows     O     I    packing  packed product  plain
        float32     8   128   128         83              14      6
        float32    32   512   128         97              30     43
        float32     1   512   512        123              25     15
        float32     8   512   512        149              34     57
        float32   128  1024  1024        833            1260   2661
        bf16        1   128   128         73              13     14
        bf16       32   512   512        133              47     57
        bf16       32  1024  1024        559             163    189

    A packed product costs 10 more than a plain one of nothing, and packing costs 60 to 100 and then by the size of the
    weight, up to three times as much for a transposed one. In float32 the gain is another kernel's, by the work of a
    product, and hardly any for 4 rows; in bf16 it is the copy saved, by the size of the weight.
    """
    if weight_OI.dtype == torch.bfloat16:
        return steps >= 16 and steps * weight_OI.numel() >= 2**22
    return rows >= 8 and steps >= 8 and steps * rows >= 128 and rows * weight_OI.numel() >= 2**21


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN, as this torch was built, packs such a weight."""
    if weight.device.type != "cpu" or weight.dtype not in PACKED_DTYPES or not weight.numel():
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    # oneDNN as torch's own compiler calls it: not public, so its absence is nothing unusual
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    # a compiler would follow the trial
    return torch.compiler.is_compiling() or _tried(weight.dtype)


@cache
def _tried(dtype: torch.dtype) -> bool:
    """Whether the operations, which another torch may have changed, do what they did; if not, why is logged once."""
    expected = [[[11.0, 5.0]], [[12.0, 4.0]], [[1.0, 3.0]]]
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        with torch.no_grad(), _disable_current_modes():
            x, weight, p = (
                torch.tensor(rows, dtype=dtype, device="cpu")
                for rows in ([[3.0, 4.0]], [[1.0, 2.0], [3.0, -1.0]], [[1.0, -1.0]])
            )
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
            product = torch.ops.mkldnn._linear_pointwise
            found = [
                product(x, packed, None, "none", [], "").tolist(),
                product.binary(x, p, packed, None, "add").tolist(),
                product(weight[:, :1].t(), torch.eye(2, dtype=dtype, device="cpu"), None, "none", [], "").tolist(),
            ]
        reason = "" if found == expected else f"a trial gave {found} for {expected}"
    except Exception as error:  # whatever a changed operation raises
        reason = str(error).strip().partition("\n")[0] or repr(error)
    if reason:
        logging.getLogger("overnight").warning("oneDNN's own products are not used in %s: %s.", dtype, reason)
    return not reason
