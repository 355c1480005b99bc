"""Text from a byte language model, one byte of every stream at a time; the state is carried, nothing is read twice.

Shape suffixes: T time, B streams, V = 256.
"""

import codecs
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.evaluate.extraction import layer_index, unit_index
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper, Fixed, State

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
    fix_units: Mapping[int, float] | None = None,
    layer: int = -1,
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
        fix_units: unit → the value that its cell state is set to at every step, from the prompt's first byte on:
            c_t[unit] = value, then h_t = σ(o) tanh(c_t), and the next step starts from that c_t. It steers what is
            written (Radford et al. 2017 fix the unit of sentiment). Not finite values and units that are not there are
            refused.
        layer: whose units these are, counted from the bottom, or from the top where negative.

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
    fixed = _fixed(model, fix_units or {}, layer)
    filled = [prompt or START for prompt in prompts]
    sampler = Sampler(model.output.weight.device, temperature, top_k, top_p, seed)
    return _stream(model, filled, length, sampler, dtype, fixed)


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


class Sampler:
    """Draws the next byte of every stream from softmax(logits / temperature), as ``generate`` describes.

    Args:
        device: of the logits.
        temperature: 0 always takes the most likely byte.
        top_k: how many bytes to keep; None keeps all.
        top_p: probability to keep, in (0, 1]; None keeps all.
        seed: of the draws.
    """

    def __init__(
        self, device: torch.device, temperature: float, top_k: int | None, top_p: float | None, seed: int
    ) -> None:
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Logits [B, V] → one byte for each stream, int64 [B].

        Raises:
            UserError: a logit is not finite.
        """
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


def _fixed(model: ByteLM, fix_units: Mapping[int, float], layer: int) -> Fixed:
    index = layer_index(model, layer)
    for unit, value in fix_units.items():
        unit_index(model, unit)
        if not math.isfinite(value):
            raise UserError(f"Unit {unit} cannot be fixed at {value}.", "Give a finite number, such as 1.0 or -1.0.")
    return {index: fix_units} if fix_units else {}


@torch.no_grad()  # torch leaves the mode at every yield, so it does not reach the caller's code
def _stream(
    model: ByteLM, prompts: list[bytes], length: int, sampler: Sampler, dtype: torch.dtype | None, fixed: Fixed
) -> Iterator[list[bytes]]:
    stepper = ByteStepper(model, dtype, fixed)
    if fixed:
        logits_BV, state = _step_through(stepper, model, prompts)
    else:
        logits_BV, carry = _read(model, prompts)
        state = stepper.state(carry)
    for left in range(length, 0, -1):
        ids_B = sampler(logits_BV)
        yield [bytes((value,)) for value in ids_B.tolist()]
        if left > 1:
            logits_BV, state = stepper.step(ids_B, state)


def _step_through(stepper: ByteStepper, model: ByteLM, prompts: list[bytes]) -> tuple[Tensor, State]:
    """Like ``_read``, but a byte at a time, since the units are fixed while the prompt is read as well.

    Streams whose prompt has not begun start over from zeros at every step.
    """
    longest, device = max(map(len, prompts)), model.output.weight.device
    zero = state = stepper.state(model.initial_carry(len(prompts)))
    begun_B1 = torch.zeros(len(prompts), 1, dtype=torch.bool, device=device)
    for t in range(-longest, 0):
        ids_B = torch.tensor([prompt[t] if -t <= len(prompt) else 0 for prompt in prompts], device=device)
        state = [
            (torch.where(begun_B1, h, h0), torch.where(begun_B1, c, c0))
            for (h, c), (h0, c0) in zip(state, zero, strict=True)
        ]
        logits_BV, state = stepper.step(ids_B, state)
        begun_B1 = torch.tensor([[-t <= len(prompt)] for prompt in prompts], device=device)
    return logits_BV, state


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
