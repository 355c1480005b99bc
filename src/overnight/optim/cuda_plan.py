"""Which program of the Triton kernels works on what, and the tables that tell them; see ``triton_kernels``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from overnight.optim.layerwise import Bucket

ROUND = 1 << 14
"""Elements of the smallest chunk, and what others are a multiple of."""
MOST = 1024
"""Chunks of a layer: as many partial sums as a program of the second pass adds up at once."""
SHARE_OF_L2 = 0.6
"""Of the cache, for a group of layers; the rest is for what streams past it. Not measured on a device yet."""


@dataclass
class Plan:
    """The chunks of a bucket, in the order of work; the same at every step.

    Attributes:
        sizes: int64 [L, 4].
        layer_of: int32 [chunks].
        squares: float64 [chunks, 2], for their sums.
        ends: chunk after the last of each group of layers that fits into the cache.
        aligned: whether each group can be read 16 bytes at a time.
        kept: what a captured CUDA graph copies from and to.
        spare: what the next graph will copy from.
    """

    sizes: Tensor
    layer_of: Tensor
    squares: Tensor
    ends: list[int]
    aligned: list[bool]
    kept: list[Tensor] = field(default_factory=list)
    spare: list[Tensor] = field(default_factory=list)


def plan_of(bucket: Bucket, addresses: Sequence[Sequence[int]], bytes_each: int, plans: dict[Any, Any]) -> Plan:
    """The plan for a bucket, made only once.

    Args:
        bucket: the layers.
        addresses: of the tensors of each.
        bytes_each: of an element, in what both passes read.
        plans: those made before.
    """
    device = bucket[0].weight.device
    elements = [layer.weight.numel() for layer in bucket]
    aligned = [n % 8 == 0 and not any(x % 16 for x in row) for n, row in zip(elements, addresses, strict=True)]
    key = ("plan", device, bytes_each, tuple(elements), tuple(aligned))
    if key not in plans:
        plans[key] = _plan(elements, aligned, bytes_each, device)
    plan: Plan = plans[key]
    return plan


def _plan(elements: Sequence[int], aligned: Sequence[bool], bytes_each: int, device: torch.device) -> Plan:
    room = SHARE_OF_L2 * _l2_bytes(device) / bytes_each
    sizes = [[0] * 4 for _ in elements]
    layer_of: list[Tensor] = []
    ends: list[int] = []
    kinds: list[bool] = []
    chunks, filled = 0, 0
    for n in sorted(range(len(elements)), key=lambda n: not aligned[n]):
        if not ends or filled + elements[n] > room or kinds[-1] != aligned[n]:
            ends.append(chunks)
            kinds.append(aligned[n])
            filled = 0
        length = -(-elements[n] // (ROUND * MOST)) * ROUND or ROUND
        count = -(-elements[n] // length)
        sizes[n] = [elements[n], length, chunks, count]
        layer_of.append(torch.full((count,), n, dtype=torch.int32))
        chunks += count
        filled += elements[n]
        ends[-1] = chunks
    host = [torch.tensor(sizes), torch.cat(layer_of)]
    if device.type == "cuda":
        host = [x.pin_memory() for x in host]
    on_device = [x.to(device, non_blocking=True) for x in host]
    squares = torch.empty(chunks, 2, dtype=torch.float64, device=device)
    return Plan(on_device[0], on_device[1], squares, ends, kinds, host)


def _l2_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 50_000_000
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def send(
    addresses: Sequence[Sequence[int]], numbers: Tensor, lr: float | Tensor, plan: Plan, device: torch.device
) -> tuple[Tensor, Tensor]:
    """This step's tables on the device, by one copy that nothing waits for.

    Args:
        addresses: of the tensors of each layer, at most four.
        numbers: float64 [L, 3], on the CPU or already on the device; the first column lacks the rate.
        lr: rate.
        plan: keeps what a captured graph will copy again.
        device: of the layers.

    Returns:
        ``pointers`` and ``numbers``.
    """
    layers = len(addresses)
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    host = plan.spare.pop() if capturing and plan.spare else _pinned(layers * 7, device)
    if numbers.device.type != "cpu" and not capturing and not plan.spare:
        plan.spare.append(_pinned(layers * 7, device))  # allocating it within a capture may be an error
    host[: layers * 4].view(layers, 4)[:, : len(addresses[0])] = torch.tensor(addresses)
    if numbers.device.type == "cpu":
        host[layers * 4 :].view(torch.float64).copy_(numbers.reshape(-1))
    sent = host.to(device, non_blocking=True)
    if numbers.device.type == "cpu":
        numbers = sent[layers * 4 :].view(torch.float64).view(layers, 3)
    if capturing:
        plan.kept += [host, sent]
    numbers[:, 0] *= lr.reshape(()) if isinstance(lr, Tensor) else lr
    return sent, numbers


def _pinned(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
