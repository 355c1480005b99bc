"""Distributions over a vocabulary from which words are drawn, and how often each is to be expected.

Everything is on the CPU in float64, so that one seed draws the same words on every device.

Shape suffixes as in ``overnight.nn.softmax``.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.nn.rows import whole_number


class Draw(NamedTuple):
    """Words drawn without replacement.

    Attributes:
        ids: [S], rising, without repetition.
        log_expected_count: [S], log of the probability with which each came to be among them.
        tries: draws that it took; infinite where all words are drawn.
    """

    ids: Tensor
    log_expected_count: Tensor
    tries: float


class Sampler(Protocol):
    """What the sampled losses ask of a distribution q."""

    vocab_size: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] ids, drawn with replacement."""

    def draw_unique(self, count: int, generator: torch.Generator) -> Draw:
        """Words drawn until there are ``count`` different ones."""

    def log_expected_count(self, ids: Tensor, tries: float) -> Tensor:
        """log(1 - (1 - q)^tries): of these words to be among so many draws, in the shape of ``ids``."""

    def log_probability(self, ids: Tensor) -> Tensor:
        """log q, in the shape of ``ids``."""


class _Sampler:
    def __init__(self, vocab_size: int) -> None:
        whole_number("vocab_size", vocab_size)
        self.vocab_size = vocab_size

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def log_probability(self, ids: Tensor) -> Tensor:
        raise NotImplementedError

    def draw_unique(self, count: int, generator: torch.Generator) -> Draw:
        """Words drawn until there are ``count`` different ones, and the probability that each had to be among them.

        A word w is among them if it comes before ``count`` others have. Their last comes with draw J, counted without
        those of w; so the probability given J is 1 - (1 - q_w)^J, exactly. For a word that is among them, J is known
        once one different word more is drawn. (TensorFlow takes the tries of the last word kept, which is too few.)

        Args:
            count: S.
            generator: of the CPU.

        Raises:
            UserError: if S is below 1 or above V.
        """
        check_samples(count, self.vocab_size, unique=True)
        if count == self.vocab_size:
            return Draw(torch.arange(count), torch.zeros(count, dtype=torch.float64), math.inf)
        draws = self.draw(2 * count + 2, generator)
        while True:
            ordered, position = torch.sort(draws, stable=True)
            first = torch.ones_like(ordered, dtype=torch.bool)
            first[1:] = ordered[1:] != ordered[:-1]
            arrival = position[first]
            if len(arrival) > count:
                break
            draws = torch.cat([draws, self.draw(len(draws), generator)])
        surplus = int(arrival.kthvalue(count + 1).values)  # where the first word too many was drawn
        times = torch.zeros(len(arrival), dtype=torch.int64)
        times.index_add_(0, first.cumsum(0) - 1, (position < surplus).long())
        kept = arrival < surplus
        ids = ordered[first][kept]
        return Draw(ids, self.log_expected_count(ids, surplus + 1 - times[kept]), float(surplus))

    def log_expected_count(self, ids: Tensor, tries: float | Tensor) -> Tensor:
        """log(1 - (1 - q)^tries), in float64.

        Args:
            ids: words.
            tries: draws, one number or one each.
        """
        none = torch.log1p(-self.log_probability(ids).exp()) * tries
        return torch.log(-torch.expm1(none))


class LogUniform(_Sampler):
    """q(k) = log((k + 2) / (k + 1)) / log(V + 1): near Zipf's law for ids by falling frequency.

    Args:
        vocab_size: V.

    >>> sampler = LogUniform(10_000)
    >>> draw = sampler.draw_unique(100, torch.Generator().manual_seed(0))
    >>> len(draw.ids), draw.tries > 100
    (100, True)
    """

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] ids, drawn with replacement."""
        uniform = torch.rand(count, dtype=torch.float64, generator=generator)
        ids = torch.exp(uniform * math.log(self.vocab_size + 1)).long() - 1
        return ids.clamp_(max=self.vocab_size - 1)

    def log_probability(self, ids: Tensor) -> Tensor:
        """log q, in the shape of ``ids``."""
        return torch.log(torch.log1p(1.0 / (ids.double() + 1.0)) / math.log(self.vocab_size + 1))


class Unigram(_Sampler):
    """q(k) ∝ count(k)^power: the words' own frequencies.

    A count of 0 is taken as 1: a word that is never drawn is never pushed down, and takes over the exact softmax.

    Args:
        counts: of every word, [V]; in any order.
        power: below 1 flattens (0.75 is usual for noise).

    Raises:
        UserError: for counts that are negative, not finite or not a vector, or a power that is negative.

    >>> Unigram(torch.tensor([6, 3, 1])).log_probability(torch.arange(3)).exp()
    tensor([0.6000, 0.3000, 0.1000], dtype=torch.float64)
    """

    def __init__(self, counts: Tensor, power: float = 1.0) -> None:
        counts = torch.as_tensor(counts).cpu().double()
        if counts.ndim != 1 or len(counts) == 0:
            raise UserError(f"The counts have shape {list(counts.shape)}.", "Give one count for each word.")
        super().__init__(len(counts))
        if not bool(torch.isfinite(counts).all()) or bool((counts < 0).any()):
            raise UserError("There are negative or infinite counts.", "Give how often each word occurs.")
        if not 0.0 <= power < math.inf:
            raise UserError(f"power={power} cannot be.", "Give 1 for the words' frequencies, less to flatten them.")
        weights = counts.clamp(min=1.0) ** power
        self._log_q = torch.log(weights / weights.sum())
        self._below = weights.cumsum(0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] ids, drawn with replacement."""
        uniform = torch.rand(count, dtype=torch.float64, generator=generator) * self._below[-1]
        return torch.searchsorted(self._below, uniform, right=True).clamp_(max=self.vocab_size - 1)

    def log_probability(self, ids: Tensor) -> Tensor:
        """log q, in the shape of ``ids``."""
        return self._log_q[ids]


def check_samples(count: int, vocab_size: int, unique: bool) -> None:
    """Raise a UserError for a number of samples below 1 or, without replacement, above that of the words."""
    whole_number("samples", count)
    if unique and count > vocab_size:
        raise UserError(
            f"{count:,} samples cannot be drawn without replacement from a vocabulary of {vocab_size:,} words.",
            "Take fewer samples than words, or FullSoftmax.",
        )
