"""Beam search over a batch of sentences, with the length normalisation and coverage penalty of Wu et al. 2016.

Shape suffixes: T source steps, U target steps, B sentences, K hypotheses of a sentence, N = B·K, V words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.models.seq2seq import GNMT

_FLOOR = 1e-20


@dataclass(frozen=True)
class Beam:
    """How a translation is looked for (defaults: GNMT v2's).

        score(Y) = log P(Y | X) / lp(Y) + β Σ_t log min(Σ_u α_ut, 1);   lp(Y) = (5 + |Y|)^α / (5 + 1)^α

    Wu et al. 2016 (arXiv 1609.08144), equations 14 and 15; |Y| counts the end of the sentence. Hypotheses are kept by
    log P; an end is taken where it is among the K likeliest of all continuations, the finished ones are compared by the
    score, and the search ends with the K-th of them.

    Attributes:
        size: K; 1 is greedy.
        alpha: length normalisation, at least 0; 0 for none.
        beta: coverage penalty, at least 0; 0 for none.
        max_factor, max_extra: a translation has at most ``max_factor`` · |X| + ``max_extra`` words, its end among them.

    Raises:
        UserError: for a value out of its range.
    """

    size: int = 5
    alpha: float = 0.6
    beta: float = 0.1
    max_factor: float = 2.0
    max_extra: int = 10

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"A beam of {self.size} cannot be.", "Take at least 1.")
        for name in ("alpha", "beta", "max_factor", "max_extra"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"{name}={value} cannot be.", "Take 0 or more.")
        if not self.max_factor and not self.max_extra:
            raise UserError("A translation of at most 0 words is none.", "Take max_factor or max_extra above 0.")

    def normaliser(self, length: int) -> float:
        """lp of so many words.

        >>> Beam(alpha=1.0).normaliser(7)
        2.0
        """
        return float(((5.0 + length) / 6.0) ** self.alpha)

    def coverage(self, sums_T: Tensor, padding_T: Tensor) -> Tensor:
        """The coverage penalty, over the last dimension.

        Args:
            sums_T: Σ_u α_ut.
            padding_T: True where there is no word.
        """
        return self.beta * sums_T.clamp(_FLOOR, 1.0).log().masked_fill(padding_T, 0.0).sum(-1)


@dataclass(frozen=True)
class Found:
    """The best translation of a sentence: its words without the end, its score, and log P with the end."""

    ids: list[int]
    score: float
    log_prob: float


@torch.no_grad()
def beam_search(
    model: GNMT,
    source_TB: Tensor,
    length_B: Tensor,
    *,
    bos: int,
    eos: int,
    beam: Beam | None = None,
    forbidden: Sequence[int] = (),
) -> list[Found]:
    """Translate a batch. A search also ends when no hypothesis that is left can overtake the best finished one.

    What others are in the batch changes nothing. Of hypotheses that are equally good the first found is kept.

    Args:
        model: in evaluation mode.
        source_TB, length_B: as ``GNMT.encode`` takes them.
        bos, eos: of the target's vocabulary.
        beam: settings.
        forbidden: ids that are never said, such as ``bos`` and that of unknown words.
    """
    beam = beam or Beam()
    size, count, device = beam.size, source_TB.shape[1], source_TB.device
    limit_B = (beam.max_factor * (length_B.cpu() - 1) + beam.max_extra).long().clamp(min=1).tolist()
    memory = model.encode(source_TB, length_B)
    memory = memory.take(torch.arange(count, device=device).repeat_interleave(size))
    best: list[Found | None] = [None] * count
    finished = [0] * count
    log_p_BK = torch.full((count, size), -torch.inf, dtype=torch.float64, device=device)
    log_p_BK[:, 0] = 0.0
    coverage_NT = torch.zeros(memory.padding_BT.shape, dtype=torch.float64, device=device)
    prefixes: list[list[list[int]]] = [[[] for _ in range(size)] for _ in range(count)]
    words_N = torch.full((count * size,), bos, device=device)
    state = None
    for step in range(1, max(limit_B) + 1):
        h_1NH, state, weights_1NT = model.decode(words_N.unsqueeze(0), memory, state)
        coverage_NT = coverage_NT + weights_1NT[0]
        log_q_NV = model.output.log_prob(h_1NH[0]).double()
        log_q_NV[:, list(forbidden)] = -torch.inf
        log_q_BKV = log_q_NV.view(count, size, -1)
        ending_B = torch.tensor([step >= limit for limit in limit_B], device=device)
        # at its limit a sentence can only end
        only_end = ending_B.view(-1, 1, 1) & (torch.arange(log_q_BKV.shape[2], device=device) != eos)
        total_BKV = log_p_BK.unsqueeze(2) + log_q_BKV.masked_fill(only_end, -torch.inf)
        penalty_BK = beam.coverage(coverage_NT, memory.padding_BT).view(count, size)
        # of twice as many at most half are ends, so that enough are left to go on with
        top_BC, flat_BC = total_BKV.flatten(1).topk(min(2 * size, total_BKV[0].numel()), dim=1)
        top, flat, penalty = top_BC.tolist(), flat_BC.tolist(), penalty_BK.tolist()
        vocabulary = log_q_BKV.shape[2]
        rows, words, kept = [], [], []
        for b in range(count):
            going: list[tuple[float, int, int]] = []
            for rank, (log_p, at) in enumerate(zip(top[b], flat[b], strict=True)):
                k, word = divmod(at, vocabulary)
                if log_p == -math.inf:
                    continue
                if word != eos:
                    going.append((log_p, k, word))
                if word != eos or rank >= size:
                    continue
                finished[b] += 1
                score = log_p / beam.normaliser(step) + penalty[b][k]
                before = best[b]
                if before is None or score > before.score:
                    best[b] = Found(prefixes[b][k], score, log_p)
            going = going[:size]
            found = best[b]
            overtakes = found is None or (going and going[0][0] / beam.normaliser(limit_B[b]) > found.score)
            if finished[b] >= size or not overtakes:
                going = []
            filled = going + [(-math.inf, 0, eos)] * (size - len(going))
            prefixes[b] = [prefixes[b][k] + [word] for _, k, word in filled]
            kept.append([log_p for log_p, _, _ in filled])
            rows += [b * size + k for _, k, _ in filled]
            words += [word for _, _, word in filled]
        log_p_BK = torch.tensor(kept, dtype=torch.float64, device=device)
        if not bool(torch.isfinite(log_p_BK).any()):
            break
        rows_N = torch.tensor(rows, device=device)
        words_N = torch.tensor(words, device=device)
        state = tuple((h.index_select(0, rows_N), c.index_select(0, rows_N)) for h, c in state)
        coverage_NT = coverage_NT.index_select(0, rows_N)
    return [found or Found([], -math.inf, -math.inf) for found in best]
