"""What workers and server say to each other: a kind, plain data, and tensors in one buffer."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes at whose multiples tensors begin in a buffer, so that any type can be read where it lies."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        kind: ``hello``, ``pull``, ``push``, ``give``, ``bye`` of a worker; ``welcome``, ``refused``, ``values``,
            ``taken``, ``thanks`` of the server.
        data: what JSON can hold.
        tensors: of any shape and type.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


def pack(message: Message) -> tuple[Tensor, Tensor]:
    """A message as two buffers of bytes: what it says of itself, and its tensors one after the other.

    >>> said, body = pack(Message("push", {"count": 3}, (torch.arange(3), torch.ones(2))))
    >>> unpack(said, body)
    Message(kind='push', data={'count': 3}, tensors=(tensor([0, 1, 2]), tensor([1., 1.])))
    """
    forms = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in message.tensors]
    text = json.dumps([message.kind, message.data, forms]).encode()
    places, size = _places([tensor.numel() * tensor.element_size() for tensor in message.tensors])
    body = torch.empty(size, dtype=torch.uint8)
    for (start, end), tensor in zip(places, message.tensors, strict=True):
        if end > start:
            body[start:end].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8), body


def unpack(said: Tensor, body: Tensor) -> Message:
    """The message that ``pack`` made buffers of; its tensors lie in the buffer."""
    kind, data, forms = json.loads(bytes(said.numpy()))
    types = [getattr(torch, name) for name, _ in forms]
    numbers = [torch.Size(shape).numel() for _, shape in forms]
    places, _ = _places([n * dtype.itemsize for n, dtype in zip(numbers, types, strict=True)])
    tensors = [
        body[start:end].view(dtype).view(shape)
        for (start, end), dtype, (_, shape) in zip(places, types, forms, strict=True)
    ]
    return Message(kind, data, tuple(tensors))


def _places(sizes: list[int]) -> tuple[list[tuple[int, int]], int]:
    places, start = [], 0
    for size in sizes:
        places.append((start, start + size))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    return places, start
