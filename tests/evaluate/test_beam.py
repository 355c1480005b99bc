"""Beam search: against every sentence there is, a plain beam of one sentence, and taking the likeliest word."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from overnight.errors import UserError
from overnight.evaluate.beam import Beam, beam_search
from overnight.models.seq2seq import GNMT

UNK, EOS, BOS, WORDS = 0, 1, 2, 6
FORBIDDEN = (UNK, BOS)
Scored = tuple[float, float, list[int]]


@pytest.fixture(scope="module")
def model() -> GNMT:
    """Untrained, with weights so large that what it says depends on the source, and is of several lengths."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 6, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
    made = GNMT(9, WORDS, **sizes, init_range=4.0).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        assert made.output.bias is not None
        made.output.bias[EOS] = 0.0
    return made


@dataclass(frozen=True)
class Source:
    ids: tuple[int, ...]

    @property
    def steps(self) -> torch.Tensor:
        return torch.tensor(self.ids).unsqueeze(1)


SOURCES = [Source(ids) for ids in ((3, 5, 1), (8, 1), (4, 4, 7, 6, 1), (5, 3, 8, 1), (6, 1))]


def batch(sources: list[Source]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(source.ids) for source in sources)
    rows = [[*source.ids, *[EOS] * (longest - len(source.ids))] for source in sources]
    return torch.tensor(rows).t(), torch.tensor([len(source.ids) for source in sources])


@torch.no_grad()
def measured(model: GNMT, source: Source, words: list[int]) -> tuple[list[float], torch.Tensor]:
    """log p of each word, read all at once, and how often each word of the source was looked at, as it adds up."""
    memory = model.encode(source.steps, torch.tensor([len(source.ids)]))
    h, _, weights = model.decode(torch.tensor([BOS, *words[:-1]]).unsqueeze(1), memory)
    log_p = model.output.log_prob(h.flatten(0, 1)).double()
    return log_p[torch.arange(len(words)), words].tolist(), weights[:, 0].double().sum(0)


def score(model: GNMT, source: Source, words: list[int], alpha: float, beta: float) -> Scored:
    """Wu et al.'s equations 14 and 15, of a whole sentence."""
    log_p, looked = measured(model, source, words)
    coverage = sum(math.log(min(share, 1.0)) for share in looked.tolist())
    return sum(log_p) / ((5 + len(words)) ** alpha / 6**alpha) + beta * coverage, sum(log_p), words[:-1]


def plain_beam(model: GNMT, source: Source, beam: Beam, limit: int) -> Scored:
    """One hypothesis after another, and no end before the beam's own."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[Scored] = []
    for step in range(1, limit + 1):
        grown = []
        for _, words in live:
            for word in [EOS] if step == limit else [w for w in range(WORDS) if w not in FORBIDDEN]:
                grown.append((sum(measured(model, source, [*words, word])[0]), [*words, word]))
        grown.sort(key=lambda item: -item[0])
        ended = [words for _, words in grown[: beam.size] if words[-1] == EOS]
        finished += [score(model, source, words, beam.alpha, beam.beta) for words in ended]
        live = [item for item in grown[: 2 * beam.size] if item[1][-1] != EOS][: beam.size]
        if len(finished) >= beam.size or not live:
            break
    return max(finished)


SETTINGS = [(0.0, 0.0), (0.6, 0.1), (1.0, 0.0), (0.2, 0.5)]


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_a_beam_of_everything_finds_the_best_sentence_there_is(model: GNMT, alpha: float, beta: float) -> None:
    limit, source = 4, SOURCES[2]
    words = [word for word in range(WORDS) if word not in (*FORBIDDEN, EOS)]
    every = [[*start, EOS] for length in range(limit) for start in itertools.product(words, repeat=length)]
    expected = max(score(model, source, sentence, alpha, beta) for sentence in every)
    beam = Beam(len(every), alpha, beta, max_factor=0, max_extra=limit)
    (found,) = beam_search(model, *batch([source]), bos=BOS, eos=EOS, beam=beam, forbidden=FORBIDDEN)
    assert found.ids == expected[2]
    assert (found.score, found.log_prob) == pytest.approx(expected[:2])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_it_is_a_plain_beam_of_each_sentence(model: GNMT, size: int, alpha: float, beta: float) -> None:
    """So ending early costs nothing, and what else is in the batch changes nothing."""
    beam = Beam(size, alpha, beta, max_factor=1, max_extra=3)
    every = beam_search(model, *batch(SOURCES), bos=BOS, eos=EOS, beam=beam, forbidden=FORBIDDEN)
    for source, found in zip(SOURCES, every, strict=True):
        expected = plain_beam(model, source, beam, limit=len(source.ids) - 1 + 3)
        assert found.ids == expected[2]
        assert (found.score, found.log_prob) == pytest.approx(expected[:2])


@torch.no_grad()
def test_a_beam_of_one_takes_the_likeliest_word_each_time(model: GNMT) -> None:
    found = beam_search(model, *batch(SOURCES), bos=BOS, eos=EOS, beam=Beam(1), forbidden=FORBIDDEN)
    lengths = set()
    for source, one in zip(SOURCES, found, strict=True):
        memory = model.encode(source.steps, torch.tensor([len(source.ids)]))
        words, state = [BOS], None
        for _ in range(2 * (len(source.ids) - 1) + 9):
            h, state, _ = model.decode(torch.tensor([[words[-1]]]), memory, state)
            log_p = model.output.log_prob(h[0])[0]
            log_p[list(FORBIDDEN)] = -math.inf
            words.append(int(log_p.argmax()))
            if words[-1] == EOS:
                break
        assert one.ids == [word for word in words[1:] if word != EOS]
        lengths.add(len(one.ids))
    assert len(lengths) > 3


def test_the_penalties(model: GNMT) -> None:
    assert [Beam(alpha=0.6).normaliser(length) for length in (1, 7)] == pytest.approx([1.0, 2.0**0.6])
    shares, padding = torch.tensor([0.5, 2.0, 0.1]), torch.tensor([False, False, True])
    assert float(Beam(beta=0.2).coverage(shares, padding)) == pytest.approx(0.2 * math.log(0.5))
    short, long = (
        beam_search(model, *batch(SOURCES), bos=BOS, eos=EOS, beam=Beam(4, alpha, 0.0), forbidden=FORBIDDEN)
        for alpha in (0.0, 2.0)
    )
    assert sum(len(one.ids) for one in long) > sum(len(one.ids) for one in short)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "A beam of 0 cannot be"),
        ({"alpha": -1.0}, r"alpha=-1\.0 cannot be"),
        ({"beta": math.nan}, "beta=nan cannot be"),
        ({"max_factor": 0, "max_extra": 0}, "at most 0 words"),
    ],
)
def test_what_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Beam(**settings)  # type: ignore[arg-type]
