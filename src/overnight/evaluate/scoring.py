"""Held-out tokens through a model, window by window: exact sums, static or while the model adapts to what it has read.

Shape suffixes: T time, B lanes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.evaluate.heldout import BlockSums
from overnight.evaluate.windows import Window
from overnight.models.word_model import WordModel

Carry = dict[str, Tensor] | None
Scorer = Callable[[Window, Carry], tuple[Tensor, Carry]]
"""(window, carry) → -log p of each target in nats [T, B], and the new carry."""


@dataclass(frozen=True)
class Dynamic:
    """Settings of dynamic evaluation (``dynamic_scorer``).

    Attributes:
        lr: rate of SGD.
        decay: towards the trained weights, after each window.
        length: words (or bytes) of a window: one step each.
    """

    lr: float
    decay: float = 0.0
    length: int = 5


def static_scorer(model: nn.Module, device: torch.device, autocast: torch.dtype | None = None) -> Scorer:
    """Score with the weights as they are; ``model`` is a ``WordModel``, or gives logits as a ``ByteLM`` does."""

    def score(window: Window, carry: Carry) -> tuple[Tensor, Carry]:
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            return _nats(model, window, carry, device)

    return score


@contextmanager
def dynamic_scorer(
    model: nn.Module, device: torch.device, *, lr: float, decay: float = 0.0, autocast: torch.dtype | None = None
) -> Iterator[Scorer]:
    """Dynamic evaluation: score a window, then take a step of SGD on it, so that the next finds an adapted model.

        θ ← θ - η ∇L(window) + λ (θ₀ - θ),   L the mean over the window's scored tokens

    No token is scored after the model has learned from it. At the end the model has its own weights again. Of the
    published forms this is the one of plain SGD; the RMS-scaled ones need gradient statistics of the training text.

    Args:
        model: as for ``static_scorer``; in evaluation mode.
        device: where it is.
        lr: η.
        decay: λ, towards the trained weights, at least 0 and below 1.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.

    Raises:
        UserError: if η or λ is out of its range.

    Source: Krause et al. 2018 (arXiv 1709.07432), section 4.
    """
    if not 0 < lr < float("inf") or not 0 <= decay < 1:
        raise UserError(
            f"Dynamic evaluation cannot have a rate of {lr:g} and a decay of {decay:g}.",
            "Take a rate above 0 and a decay from 0 to below 1.",
        )
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    wanted = [p.requires_grad for p in parameters]
    trained = [p.detach().clone() for p in parameters]

    def score(window: Window, carry: Carry) -> tuple[Tensor, Carry]:
        with torch.enable_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            nats_TB, carry = _nats(model, window, carry, device)
        carry = {name: part.detach() for name, part in (carry or {}).items()}
        scored_TB = window.scored_TB.to(device)
        if scored_TB.any():
            gradients = torch.autograd.grad(nats_TB[scored_TB].mean(), parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient, start in zip(parameters, gradients, trained, strict=True):
                    if decay:
                        parameter.lerp_(start, decay)
                    if gradient is not None:
                        parameter.add_(gradient, alpha=-lr)
        return nats_TB.detach(), carry

    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield score
    finally:
        with torch.no_grad():
            for parameter, start, had in zip(parameters, trained, wanted, strict=True):
                parameter.copy_(start)
                parameter.requires_grad_(had)


def block_sums(
    windows: Iterable[Window],
    score: Scorer,
    block: int,
    *,
    opening_nats: float | None = None,
    on_scored: Callable[[int], None] | None = None,
) -> BlockSums:
    """The nats of all scored tokens, in blocks for a confidence interval.

    Args:
        windows: of the held-out tokens.
        score: static or dynamic.
        block: tokens of a lane that make a block.
        opening_nats: what the first token of the stream costs; None leaves it to the model.
        on_scored: called after each window with the number of tokens that it scored.
    """
    sums, carry = BlockSums(), None
    n_B = y_B = torch.zeros(1, dtype=torch.float64)
    for window in windows:
        nats_TB, carry = score(window, carry)
        if not window.scored_TB.any():
            continue
        nats_TB = nats_TB.cpu().double()
        if opening_nats is not None:
            nats_TB = nats_TB.masked_fill(window.opening_TB, opening_nats)
        n_B = n_B + window.scored_TB.sum(0)
        y_B = y_B + nats_TB.masked_fill(~window.scored_TB, 0.0).sum(0)
        if n_B.max() >= block:
            sums.add(n_B, y_B)
            n_B, y_B = torch.zeros_like(n_B), torch.zeros_like(y_B)
        if on_scored is not None:
            on_scored(int(window.scored_TB.sum()))
    sums.add(n_B, y_B)
    return sums


def _nats(model: nn.Module, window: Window, carry: Carry, device: torch.device) -> tuple[Tensor, Carry]:
    ids_TB, target_TB, reset_TB = (part.to(device) for part in (window.input_TB, window.target_TB, window.reset_TB))
    if isinstance(model, WordModel):
        return model.nats(ids_TB, target_TB, carry, reset_TB)
    logits_TBV, carry = model(ids_TB, carry, reset_TB)
    wide = torch.promote_types(logits_TBV.dtype, torch.float32)
    nats = F.cross_entropy(logits_TBV.to(wide).flatten(0, 1), target_TB.flatten(), reduction="none")
    return nats.view_as(target_TB), carry
