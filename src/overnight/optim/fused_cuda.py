"""Two passes over memory on a CUDA device, by Triton kernels over many tensors: what ``fused=True`` takes there.

Of the 10 streams through memory that a LAMB step has (AdamW: 7) and the 7 of LARS (SGD: 5), the second pass's reads
come from the L2 cache where a group of layers fits into it. Nothing is read back: no step waits for the device.
"""

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from overnight.optim.cuda_plan import MOST, ROUND, Plan, plan_of, send
from overnight.optim.layerwise import Bucket, Layer
from overnight.optim.trust_ratio import dense

DEVICES = {"cuda"}
BLOCK = 2048
"""Elements that a program takes at once."""
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
PLACEMENTS = ("inside", "torch", "scaled")
Launch = Callable[..., None]


def can(bucket: Bucket, group: dict[str, Any]) -> bool:
    """Whether these kernels are asked for and can work on the bucket."""
    # whole layers are in one bucket only if all of them fit
    return all(fits(group, layer) for layer in (bucket if bucket[0].where.groups else bucket[:1]))


def fits(group: dict[str, Any], layer: Layer) -> bool:
    """Whether these kernels are asked for and can work on the layer."""
    if group["fused"] is not True or layer.weight.device.type not in DEVICES:
        return False
    dtypes = layer.weight.dtype in DTYPES and layer.grad.dtype in DTYPES and layer.state_dtype == torch.float32
    known = group["blocks"] == 1 and group["variant"] != "lans"
    return dtypes and known and _in_one_order(layer) and _triton_is_installed()


def _in_one_order(layer: Layer) -> bool:
    w, tensors = layer.weight, (layer.grad, *layer.state.values())
    if w.is_contiguous() and all(x.is_contiguous() for x in tensors):
        return True
    return all(x.stride() == w.stride() for x in tensors) and dense(w).data_ptr() == w.data_ptr()  # no gaps


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def lamb(bucket: Bucket, group: dict[str, Any], gradient_scale: Tensor | None, plans: dict[Any, Any]) -> None:
    """Update the layers of a bucket by LAMB; not by LANS."""
    from overnight.optim import triton_kernels as kernels

    device = bucket[0].weight.device
    beta1, beta2 = group["betas"]
    steps = torch.stack([layer.step for layer in bucket]).double()
    c1, c2 = 1 / (1 - beta1**steps), (1 - beta2**steps) ** -0.5
    one = torch.ones_like(c1)
    numbers = [one, c1, c2] if group["bias_correction"] is True else [one, one, one]
    if group["bias_correction"] == "rate":
        numbers[0] = c1 / c2
    addresses = [[x.data_ptr() for x in (layer.weight, layer.grad, *layer.state.values())] for layer in bucket]
    plan = plan_of(bucket, addresses, bucket[0].weight.element_size() + 8, plans)
    pointers, numbers_there = send(addresses, torch.stack(numbers, 1), group["lr"], plan, device)
    scale = None if gradient_scale is None else gradient_scale.to(device)

    def launch(squares: Tensor, first: int, boundary: int, end: int, **flags: Any) -> None:
        kernels.lamb[(end - first,)](
            pointers, numbers_there, plan.sizes, plan.layer_of, squares, scale, first, boundary,
            -1.0 if group["maximize"] else 1.0, 1 - beta1, beta2, 1 - beta2, group["eps"], group["weight_decay"],
            *group["norm_bounds"], *group["ratio_bounds"], **flags,
        )  # fmt: skip

    _passes(launch, bucket, group, plan, one_pass=0)


def lars(bucket: Bucket, group: dict[str, Any], plans: dict[Any, Any]) -> None:
    """Update the layers of a bucket by LARS."""
    from overnight.optim import triton_kernels as kernels

    device = bucket[0].weight.device
    addresses = [[x.data_ptr() for x in (layer.weight, layer.grad, *layer.state.values())] for layer in bucket]
    plan = plan_of(bucket, addresses, bucket[0].weight.element_size() + bucket[0].grad.element_size(), plans)
    ones = torch.ones(len(bucket), 3, dtype=torch.float64)
    pointers, numbers = send(addresses, ones, group["lr"], plan, device)

    def launch(squares: Tensor, first: int, boundary: int, end: int, **flags: Any) -> None:
        kernels.lars[(end - first,)](
            pointers, numbers, plan.sizes, plan.layer_of, squares, first, boundary,
            -1.0 if group["maximize"] else 1.0, group["momentum"], group["weight_decay"], group["trust_coefficient"],
            group["eps"], DECAYED=group["denominator"] == "decayed", CLIP=bool(group["clip"]),
            PLACEMENT=PLACEMENTS.index(group["momentum_placement"]), NESTEROV=bool(group["nesterov"]), **flags,
        )  # fmt: skip

    _passes(launch, bucket, group, plan, one_pass=plan.ends[-1])


def _passes(launch: Launch, bucket: Bucket, group: dict[str, Any], plan: Plan, one_pass: int) -> None:
    """Launch both passes: the second of a group of layers together with the first of the next.

    Args:
        launch: the chunks from ``first`` to ``end``, of which those before ``boundary`` are in the second pass.
        bucket, group, plan: the layers, their settings and their chunks.
        one_pass: boundary where there is no ratio, so that one pass is enough.
    """
    from overnight.optim import triton_kernels as kernels

    w, g = bucket[0].weight, bucket[0].grad
    flags: dict[str, Any] = {
        "W": kernels.TYPES[DTYPES[w.dtype]], "G": kernels.TYPES[DTYPES[g.dtype]],
        "ADAPT": bool(group["adapt"]), "SUMMED": False, "BLOCK": BLOCK, "ROUND": ROUND, "MOST": MOST, "num_warps": 8,
        "enable_fp_fusion": True,
    }  # fmt: skip
    chunks, aligned = plan.ends[-1], all(plan.aligned)
    with torch.cuda.device(w.device) if w.device.type == "cuda" else nullcontext():
        if bucket[0].where.groups and group["adapt"]:
            totals = torch.zeros(len(bucket), 2, dtype=torch.float64, device=w.device)
            if chunks:
                launch(plan.squares, 0, 0, chunks, ALIGNED=aligned, **flags)
                kernels.total[(len(bucket),)](plan.squares, plan.sizes, totals, MOST=MOST)
            bucket[0].where.total(totals)
            if chunks:
                launch(totals, 0, chunks, chunks, ALIGNED=aligned, **{**flags, "SUMMED": True})
        elif not group["adapt"]:
            if chunks:
                launch(plan.squares, 0, one_pass, chunks, ALIGNED=aligned, **flags)
        else:
            first, boundary, before = 0, 0, True
            for end, now in zip([*plan.ends, chunks], [*plan.aligned, True], strict=True):
                if end > first:
                    launch(plan.squares, first, boundary, end, ALIGNED=before and now, **flags)
                first, boundary, before = boundary, end, now
