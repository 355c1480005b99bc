"""Answers to questions: exact match and F1 by hand, the best span by brute force, and when to say nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from overnight.data.masked.spans import SpanBatch, Window
from overnight.data.masked.squad import Question
from overnight.evaluate.answers import answer_questions, best_spans, exact_match, f1, normalised, scored


@pytest.mark.parametrize(
    ("said", "answers", "exact", "share"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Broncos"], 1, 1),
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("in a large house", ["a large old house"], 0, 2 * 2 / 6),
        ("house house", ["house"], 0, 2 / 3),
        ("U.S.", ["US"], 1, 1),
        ("the", ["a"], 1, 1),
        ("", ["house"], 0, 0),
        ("house", [], 0, 0),
        ("", [], 1, 1),
    ],
)
def test_scores_by_hand(said: str, answers: list[str], exact: float, share: float) -> None:
    assert exact_match(said, answers) == exact
    assert f1(said, answers) == pytest.approx(share)


def test_normalised() -> None:
    assert normalised(" An  Apple-pie,\tTHE best ") == "applepie best"
    assert normalised("theatre another") == "theatre another"


def batch(widths: list[tuple[int, int]], places: int) -> SpanBatch:
    """Windows with so many ids of a question with its marks, and so many in all."""
    types, mask = (torch.zeros(len(widths), places, dtype=torch.int64) for _ in range(2))
    for row, (begin, size) in enumerate(widths):
        types[row, begin:size] = 1
        mask[row, :size] = 1
    return SpanBatch(torch.zeros_like(types), types, mask.bool(), torch.zeros(len(widths), 2, dtype=torch.int64))


def test_the_best_span_by_brute_force() -> None:
    torch.manual_seed(0)
    widths, longest = [(3, 11), (4, 8), (2, 12), (5, 6)], 3
    first, last = torch.randn(4, 12), torch.randn(4, 12)
    scores, spans, empty = best_spans(first, last, batch(widths, 12), longest)
    for row, (begin, size) in enumerate(widths):
        assert empty[row] == pytest.approx(float(first[row, 0] + last[row, 0]))
        pairs = [(i, j) for i in range(begin, size - 1) for j in range(i, min(i + longest, size - 1))]
        if not pairs:  # a paragraph without a word
            assert scores[row] == float("-inf")
            continue
        best = max(pairs, key=lambda pair: float(first[row, pair[0]] + last[row, pair[1]]))
        assert spans[row] == best
        assert scores[row] == pytest.approx(float(first[row, best[0]] + last[row, best[1]]))


class Told(torch.nn.Module):
    """Marks in each window the places that it is given, or the ``[CLS]``."""

    def __init__(self, marked: list[tuple[int, int, float]]) -> None:
        super().__init__()
        self.weight, self.marked = torch.nn.Parameter(torch.zeros(())), marked

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        first, last = torch.zeros(batch.input_BT.shape), torch.zeros(batch.input_BT.shape)
        for row, (i, j, score) in enumerate(self.marked):
            first[row, i] = last[row, j] = score
        return first, last


class Windows:
    """Two windows of the first question, one of the second."""

    def __init__(self) -> None:
        self.questions = [
            Question("a", "?", "one two three four", (("three four", 8),)),
            Question("b", "?", "five six", ()),
        ]
        places = [(0, 3), (4, 7), (8, 13), (14, 18)]
        self.windows = [
            Window(0, np.zeros(6, np.int32), 3, np.array(places[:2]), (0, 0)),
            Window(0, np.zeros(6, np.int32), 3, np.array(places[2:]), (3, 4)),
            Window(1, np.zeros(6, np.int32), 3, np.array([(0, 4), (5, 8)]), (0, 0)),
        ]

    def __len__(self) -> int:
        return 3

    def take(self, places: Any) -> SpanBatch:
        return batch([(3, 6)] * len(places), 6)


def test_the_best_window_answers_and_silence_is_the_least_cls() -> None:
    made: Any = Windows()
    found = answer_questions(Told([(0, 0, 9.0), (3, 4, 2.0), (0, 0, 5.0)]), made)
    assert dict(found.said) == {"a": "three four", "b": "five"}  # all of b's spans are alike: the first
    assert (found.exact_match, found.f1, found.questions) == (0.5, 0.5, 2)
    assert (found.low, found.high) == pytest.approx((0.0, 1.0))
    quiet = answer_questions(Told([(0, 0, 9.0), (3, 4, 2.0), (0, 0, 5.0)]), made, silence=True)
    assert dict(quiet.said) == {"a": "three four", "b": ""}
    assert quiet.f1 == quiet.exact_match == 1.0
    short = answer_questions(Told([(0, 0, 9.0), (3, 4, 2.0), (0, 0, 5.0)]), made, longest=1)
    assert short.said["a"] in ("three", "four")


def test_the_interval_narrows_with_questions() -> None:
    few = [Question(str(number), "?", "a film", (("film", 2),)) for number in range(10)]
    said = {str(number): "film" if number % 2 else "plot" for number in range(10)}
    found = scored(said, few)
    assert (found.f1, found.exact_match) == (0.5, 0.5)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(10))
