"""A loss over the logits of some rows of the output layer; only those rows are read, and have gradients.

Shape suffixes as in ``overnight.nn.softmax``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.fast.packed import transposed_product
from overnight.nn.rows import row_gradient
from overnight.nn.softmax.base import LinearOutput
from overnight.nn.softmax.chunked import product_dtype, scaled
from overnight.nn.softmax.samplers import LogUniform, Sampler, check_samples

Criterion = Callable[[Tensor, bool], tuple[Tensor, Tensor]]
"""(logits [N, R], whether gradients are needed) → the summed loss, and its gradient, perhaps in the same memory."""


class _RowLoss(torch.autograd.Function):
    """Gradients are made in the forward, while the logits exist; the backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        ids_R: Tensor,
        shift_R: Tensor,
        criterion: Criterion,
        sparse: bool,
        track: bool,
    ) -> Tensor:
        dtype = product_dtype(weight_VD)
        wide = torch.promote_types(dtype, torch.float32)
        needs_h, needs_w, needs_b = (track and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(h_ND.device.type, enabled=False):
            rows_RD, h = weight_VD.index_select(0, ids_R).to(dtype), h_ND.to(dtype)
            if bias_V is not None:
                shift_R = shift_R + bias_V.index_select(0, ids_R)
            shift_R = shift_R.to(wide)
            # after the product, so that the correction is not rounded to a narrow one's precision
            logits_NR = transposed_product(h.T, rows_RD.T).to(wide).add_(shift_R)
            loss, d_NR = criterion(logits_NR, needs_h or needs_w or needs_b)
            del logits_NR
            db_R = d_NR.sum(0) if needs_b else None
            d_NR = d_NR.to(dtype)
            dh = transposed_product(d_NR.T, rows_RD).to(h_ND.dtype) if needs_h else None
            del rows_RD
            dw_RD = transposed_product(d_NR, h).to(weight_VD.dtype) if needs_w else None
        ctx.gradients = dh, dw_RD, db_R if bias_V is None or db_R is None else db_R.to(bias_V.dtype)
        ctx.save_for_backward(ids_R)
        ctx.shapes, ctx.sparse = (weight_VD.shape, None if bias_V is None else bias_V.shape), sparse
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (ids_R,) = ctx.saved_tensors
        dh, *rows = scaled(ctx, scale)
        gradients = [
            None if values is None else row_gradient(ids_R, values, shape, sparse=ctx.sparse)
            for values, shape in zip(rows, ctx.shapes, strict=True)
        ]
        return dh, *gradients, None, None, None, None, None


def row_loss(
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    ids_R: Tensor,
    shift_R: Tensor,
    criterion: Criterion,
    *,
    sparse: bool = True,
) -> Tensor:
    """A loss of the logits w_r·h_n + b_r + shift_r of some rows r: one gather, three products, [N, R] numbers.

    Args:
        h_ND: hidden states.
        weight_VD: W.
        bias_V: b, or None.
        ids_R: rows, rising, without repetition.
        shift_R: added to the logits, in float32 or wider also where products are narrower; -inf leaves a row out.
        criterion: see ``Criterion``.
        sparse: whether gradients of W and b are sparse tensors of these rows.
    """
    track = torch.is_grad_enabled()
    loss: Tensor = _RowLoss.apply(h_ND, weight_VD, bias_V, ids_R, shift_R, criterion, sparse, track)  # type: ignore[no-untyped-call]
    return loss


class Candidates(NamedTuple):
    """Words drawn, and the targets.

    Attributes:
        ids_R: all of them, rising, without repetition.
        log_expected_R: log of how often each is expected among the drawn words, float64.
        times_R: how often each was drawn, float64; 0 for targets that were not.
        targets_U: where among ``ids_R`` the targets are, once each.
        targets_N: where the target of each token is.
    """

    ids_R: Tensor
    log_expected_R: Tensor
    times_R: Tensor
    targets_U: Tensor
    targets_N: Tensor


class SampledOutput(LinearOutput):
    """An output layer that trains on drawn words; it owns their generator, which is part of its ``state_dict``.

    Args:
        hidden_size, vocab_size, bias, weight, chunk: see ``LinearOutput``.
        samples: S.
        sampler: of V words; None is ``LogUniform``, for ids by falling frequency.
        unique: draw without replacement.
        seed: of the generator, which is one of the CPU. Ranks of the same seed draw the same words.
        sparse: gradients of weight and bias hold the step's rows only; False gives dense ones, for optimizers that
            need them.
        per_step: draw anew for every time step of h [T, B, D], at T times the rows; otherwise for every call.

    Raises:
        UserError: as ``LinearOutput``; for S below 1 or, without replacement, above V; for a sampler of another
            vocabulary; and with ``per_step``, when called with h of other than three dimensions.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        samples: int,
        sampler: Sampler | None = None,
        unique: bool = True,
        seed: int = 0,
        sparse: bool = True,
        per_step: bool = False,
        bias: bool = True,
        weight: nn.Parameter | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(hidden_size, vocab_size, bias=bias, weight=weight, chunk=chunk)
        check_samples(samples, vocab_size, unique)
        self.sampler: Sampler = LogUniform(vocab_size) if sampler is None else sampler
        if self.sampler.vocab_size != vocab_size:
            raise UserError(
                f"The sampler has counts of {self.sampler.vocab_size:,} words, the vocabulary has {vocab_size:,}.",
                "Take the counts of this vocabulary.",
            )
        self.samples, self.unique, self.sparse, self.per_step = samples, unique, sparse, per_step
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        """The generator's state, so that a resumed run draws the words that it would have."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Take up a generator's state."""
        self.generator.set_state(state.cpu())

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed loss over the drawn words."""
        if not self.per_step:
            return self.loss_of_draw(h.flatten(0, -2), targets.flatten())
        if h.ndim != 3:
            raise UserError(
                f"Samples per time step need h as [T, B, {self.hidden_size}], not {list(h.shape)}.",
                "Give h with its time steps, or leave per_step off.",
            )
        parts = [self.loss_of_draw(h_BD, targets_B) for h_BD, targets_B in zip(h, targets, strict=True)]
        return torch.stack(parts).sum()

    def loss_of_draw(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The summed loss of these tokens over words drawn for all of them."""
        raise NotImplementedError

    def draw(self, targets_N: Tensor) -> Candidates:
        """Draw words, and join them with the targets [N]."""
        if self.unique:
            drawn = self.sampler.draw_unique(self.samples, self.generator)
            ids, expected, times = drawn.ids, drawn.log_expected_count, torch.ones_like(drawn.log_expected_count)
        else:
            ids, counts = self.sampler.draw(self.samples, self.generator).unique(return_counts=True)
            expected, times = self._expected(ids), counts.double()
        device = targets_N.device
        targets_U, place_N = targets_N.unique(return_inverse=True)
        ids_R, place = torch.cat([ids.to(device), targets_U]).unique(return_inverse=True)
        place_S, place_U = place.split([len(ids), len(targets_U)])
        of_targets = (
            self.sampler.log_expected_count(targets_U.cpu(), drawn.tries)
            if self.unique
            else self._expected(targets_U.cpu())
        )
        log_expected_R = torch.empty(len(ids_R), dtype=torch.float64, device=device)
        log_expected_R[place_U] = of_targets.to(device)
        log_expected_R[place_S] = expected.to(device)
        times_R = torch.zeros_like(log_expected_R)
        times_R[place_S] = times.to(device)
        return Candidates(ids_R, log_expected_R, times_R, place_U, place_U[place_N])

    def _expected(self, ids: Tensor) -> Tensor:
        return self.sampler.log_probability(ids) + math.log(self.samples)

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{super().extra_repr()}, samples={self.samples}, sampler={type(self.sampler).__name__}"
