"""The state of a recurrent network after each of many texts of unequal length: its features of them.

Shape suffixes: T time, B lanes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError

SORTED_BATCHES = 32
"""Batches' worth of texts that are sorted by length together."""


def final_states(
    read: Callable[[Tensor, Any, Tensor], Any],
    texts: Iterable[Tensor],
    *,
    lanes: int = 128,
    window: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[Any]:
    """The state after each text, in the order of the texts, as if every text were read alone from a zero state.

    Texts are sorted by length, 32 · ``lanes`` of them at a time, and read ``lanes`` at a time in windows of
    ``window`` steps. Those of a batch end together: a lane joins in the window in which its text begins, filled up
    with zeros before it and reset where it begins, so fewer than ``window`` steps of a lane are read in vain. Memory
    depends on ``lanes``, ``window`` and the texts sorted together, not on their number; of a text, its input stays on
    its own device but for the window that is being read.

    Args:
        read: (x [T, B, ...], the state or None for zeros, reset [T, B]) → the state after these steps; T may be 0, and
            B varies. A state is a tensor with lanes first, or a mapping or sequence of states. Without gradients; a
            network with dropout wants its evaluation mode.
        texts: input of one text each, [T, ...], equal but for T; integers or numbers, as ``read`` takes them. T may
            be 0: the state is then zeros.
        lanes: texts read at once.
        window: steps read at once.
        device: where ``read`` wants its input.

    Returns:
        An iterator of states without lanes: of tensors [B, ...] it gives [...].

    Raises:
        UserError: at once if ``lanes`` or ``window`` is less than 1.
        ValueError: while reading, for a text that is a scalar, or of another dtype or trailing shape than the first.

    Example:
        >>> from overnight.nn.gates import DenseGates
        >>> from overnight.nn.recurrence import Recurrent
        >>> layer = Recurrent(DenseGates(4, 8))
        >>> texts = [torch.randn(length, 4) for length in (3, 100, 0, 20)]
        >>> found = final_states(lambda x, state, reset: layer(x, state, reset)[1], texts)
        >>> torch.stack([c for h, c in found]).shape
        torch.Size([4, 8])
    """
    for name, value in (("lanes", lanes), ("window", window)):
        if value < 1:
            raise UserError(f"{name}={value} reads nothing.", f"{name} must be at least 1.")
    return _in_order(read, iter(texts), lanes, window, torch.device(device))


@torch.no_grad()  # torch leaves the mode at every yield, so it does not reach the caller's code
def _in_order(read: Any, texts: Iterator[Tensor], lanes: int, window: int, device: torch.device) -> Iterator[Any]:
    first = next(texts, None)
    if first is None:
        return
    texts, count = chain([first], texts), 0
    while held := list(islice(texts, SORTED_BATCHES * lanes)):
        for index, text in enumerate(held, start=count):
            if not text.dim() or text.shape[1:] != first.shape[1:] or text.dtype != first.dtype:
                raise ValueError(
                    f"Text {index} is {text.dtype} of shape {tuple(text.shape)}; "
                    f"expected {first.dtype} of shape {('T', *first.shape[1:])}."
                )
        count += len(held)
        order = sorted(range(len(held)), key=lambda index: -len(held[index]))
        states: dict[int, Any] = {}
        for start in range(0, len(order), lanes):
            batch = order[start : start + lanes]
            state = _read(read, [held[index] for index in batch], window, device)
            states.update(
                (index, _apply(lambda part, lane=lane: part[lane], state)) for lane, index in enumerate(batch)
            )
        for index in range(len(held)):
            yield states.pop(index)


def _read(read: Any, texts: list[Tensor], window: int, device: torch.device) -> Any:
    """The state [B, ...] after texts that are sorted, the longest first."""
    longest, shape = len(texts[0]), texts[0].shape[1:]
    starts = [longest - len(text) for text in texts]

    def empty(time: int, batch: int) -> tuple[Tensor, Tensor]:
        x = torch.zeros(time, batch, *shape, dtype=texts[0].dtype)
        return x, torch.zeros(time, batch, dtype=torch.bool)

    x_TB, reset_TB = empty(0, len(texts))
    state = read(x_TB.to(device), None, reset_TB.to(device))
    # only the first window may be shorter
    for end in range(longest - (longest - 1) // window * window, longest + 1, window):
        begin = max(0, end - window)
        begun = sum(start < end for start in starts)
        x_TB, reset_TB = empty(end - begin, begun)
        for lane, (text, start) in enumerate(zip(texts[:begun], starts, strict=False)):
            x_TB[max(start - begin, 0) :, lane] = text[max(begin - start, 0) : end - start]
            if start >= begin:
                reset_TB[start - begin, lane] = True
        new = read(x_TB.to(device), _apply(lambda part, n=begun: part[:n], state), reset_TB.to(device))
        state = _apply(lambda part, rest, n=begun: torch.cat([part, rest[n:]]), new, state)
    return state


def _apply(change: Callable[..., Tensor], *states: Any) -> Any:
    first = states[0]
    if isinstance(first, Tensor):
        return change(*states)
    if isinstance(first, Mapping):
        return {name: _apply(change, *(state[name] for state in states)) for name in first}
    return tuple(_apply(change, *parts) for parts in zip(*states, strict=True))
