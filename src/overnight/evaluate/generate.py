"""Text from a byte language model, one byte of every stream at a time; the state is carried, nothing is read twice.

Shape suffixes: T time, B streams, V = 256.
"""

import codecs
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper

START = b"\n"
"""What an empty prompt starts from."""

_PROMPT_WINDOW_BYTES = 256


def generate(
    model: nn.Module,
    prompts: list[bytes],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Iterator[list[bytes]]:
    """Continue every prompt, all of them together, one byte each a step.

    Bytes are drawn from softmax(logits / temperature), cut to the ``top_k`` most likely ones and then to the smallest
    set whose probability reaches ``top_p`` (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751). The draws come
    from a generator of this call's own, seeded with ``seed``.

    Args:
        model: a ``ByteLM``, in evaluation mode.
        prompts: one for each stream; an empty one starts from a line feed. Lengths may differ.
        length: bytes to generate for each stream.
        temperature: 0 always takes the most likely byte.
        top_k: how many bytes to keep; None or 256 keeps all.
        top_p: probability to keep, in (0, 1]; None keeps all.
        seed: of the draws.
        dtype: of the products; None means the model's own.

    Returns:
        An iterator of ``length`` lists of one byte for each prompt.

    Raises:
        UserError: at once for another kind of model or a setting out of its range; while generating if the model's
            output is not finite.

    Example:
        >>> steps = generate(ByteLM(hidden_size=16), [b"one", b""], 5)
        >>> [len(step) for step in steps]
        [2, 2, 2, 2, 2]
    """
    if not isinstance(model, ByteLM):
        raise UserError(f"A {type(model).__name__} does not generate bytes.", "Give a byte language model.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"temperature={temperature} is not a temperature.", "Give 0 (most likely byte) or more.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} keeps no byte.", "Give at least 1.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not a share of probability.", "Give a number above 0 and at most 1.")
    if length < 1:
        raise UserError(f"length={length} generates nothing.", "Give at least 1 byte.")
    if not prompts:
        raise UserError("There is no prompt to continue.", "Give at least one; it may be empty.")
    filled = [prompt or START for prompt in prompts]
    return _stream(model, filled, length, _Sampler(model.output.weight.device, temperature, top_k, top_p, seed), dtype)


def text(chunks: Iterable[bytes]) -> Iterator[str]:
    """Bytes as they come → text as it becomes known: never half a character; what is no UTF-8 becomes U+FFFD.

    Every chunk gives one string, which may be empty, and the end of the chunks a last one for what was left open.

    >>> list(text([b"a", bytes([0xC3]), bytes([0xA9]), bytes([0xFF])]))
    ['a', '', 'é', '�', '']
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


class _Sampler:
    def __init__(
        self, device: torch.device, temperature: float, top_k: int | None, top_p: float | None, seed: int
    ) -> None:
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Logits [B, V] → one byte for each stream, int64 [B]."""
        best_B1, best_ids_B1 = logits_BV.max(dim=1, keepdim=True)
        if not math.isfinite(best_B1.sum().item()):
            raise UserError("The model's output is not finite.", "Its training diverged: take an earlier checkpoint.")
        if self.temperature == 0:
            return best_ids_B1.squeeze(1)
        # In float64 and relative to the largest, any temperature above 0 gives finite or -inf logits, and never NaN.
        scaled_BV = (logits_BV - best_B1).double() / self.temperature
        if self.top_k is None and self.top_p is None:
            return torch.multinomial(scaled_BV.softmax(1), 1, generator=self.generator).squeeze(1)
        sorted_BV, order_BV = scaled_BV.sort(dim=1, descending=True, stable=True)
        if self.top_k is not None:
            sorted_BV = sorted_BV[:, : self.top_k]
        probability_BV = sorted_BV.softmax(1)
        if self.top_p is not None:
            before_BV = probability_BV.cumsum(1) - probability_BV
            probability_BV = probability_BV.masked_fill(before_BV >= self.top_p, 0.0)
        rank_B1 = torch.multinomial(probability_BV, 1, generator=self.generator)
        return order_BV.gather(1, rank_B1).squeeze(1)


@torch.no_grad()  # torch leaves the mode at every yield, so it does not reach the caller's code
def _stream(
    model: ByteLM, prompts: list[bytes], length: int, sampler: _Sampler, dtype: torch.dtype | None
) -> Iterator[list[bytes]]:
    stepper = ByteStepper(model, dtype)
    logits_BV, carry = _read(model, prompts)
    state = stepper.state(carry)
    for left in range(length, 0, -1):
        ids_B = sampler(logits_BV)
        yield [bytes((value,)) for value in ids_B.tolist()]
        if left > 1:
            logits_BV, state = stepper.step(ids_B, state)


def _read(model: ByteLM, prompts: list[bytes]) -> tuple[Tensor, Any]:
    """Prompts of any lengths → logits [B, V] after the last byte of each, and the carry.

    Shorter ones are filled up on the left, and the state is reset where they begin.
    """
    longest = max(map(len, prompts))
    ids_TB = torch.zeros(longest, len(prompts), dtype=torch.long)
    reset_TB = torch.zeros(longest, len(prompts), dtype=torch.bool)
    for index, prompt in enumerate(prompts):
        start = longest - len(prompt)
        ids_TB[start:, index] = torch.frombuffer(bytearray(prompt), dtype=torch.uint8)
        reset_TB[start, index] = True
    device = model.output.weight.device
    carry = None
    for window_TB, window_reset_TB in zip(
        ids_TB.split(_PROMPT_WINDOW_BYTES), reset_TB.split(_PROMPT_WINDOW_BYTES), strict=True
    ):
        logits_TBV, carry = model(window_TB.to(device), carry, window_reset_TB.to(device))
    return logits_TBV[-1].to(torch.promote_types(logits_TBV.dtype, torch.float32)), carry
