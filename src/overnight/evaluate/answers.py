"""Answers of a model to questions on paragraphs, and how right they are: exact match and F1 as SQuAD counts them.

Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1. Shape suffixes: T places, B windows.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from overnight.data.masked.spans import SpanBatch, SpanBatches, Window, span_batches
from overnight.data.masked.squad import Question

CALL_WINDOWS = 32
"""Windows of one call of the model."""
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """An answer as it is compared: small letters, without ASCII punctuation and articles, single spaces.

    >>> normalised("The  U.S. Army, a branch")
    'us army branch'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(said: str, answers: Sequence[str]) -> float:
    """1 if an answer equals one of those given, normalised; else 0. Without any that is given, silence is right.

    >>> exact_match("the cat", ["A cat!", "dog"]), exact_match("", []), exact_match("cat", [])
    (1.0, 1.0, 0.0)
    """
    return float(normalised(said) in {normalised(answer) for answer in _given(answers)})


def f1(said: str, answers: Sequence[str]) -> float:
    """The largest F1 of the bags of normalised words of an answer and one of those given.

    >>> f1("in the old town", ["old town", "the town hall"]), f1("", []), f1("town", [])
    (0.8, 1.0, 0.0)
    """
    return max(_overlap(normalised(said).split(), normalised(answer).split()) for answer in _given(answers))


def _given(answers: Sequence[str]) -> list[str]:
    """Those of which something is left when normalised; silence where there are none."""
    return [answer for answer in answers if normalised(answer)] or [""]


def _overlap(said: list[str], answer: list[str]) -> float:
    if not said or not answer:
        return float(said == answer)
    common = sum((Counter(said) & Counter(answer)).values())
    return 2 * common / (len(said) + len(answer))


@dataclass(frozen=True)
class Answers:
    """What a model says to the questions of a file.

    Attributes:
        said: the answers by the questions' ids, pieces of their paragraphs; "" is silence.
        f1, exact_match: means over questions, 0 to 1.
        low, high: 95 % confidence interval of F1, by the deviation over questions, which takes them for independent.
        questions: how many.
    """

    said: Mapping[str, str]
    f1: float
    exact_match: float
    low: float
    high: float
    questions: int


@torch.no_grad()
def answer_questions(
    model: nn.Module,
    batches: SpanBatches,
    *,
    longest: int = 30,
    silence: bool = False,
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Answer every question by the span with the largest sum of logits in any of its windows.

    Args:
        model: ``SpanBatch`` → logits [B, T] of first and last place; it is in evaluation mode meanwhile.
        batches: the questions' windows.
        longest: word pieces of an answer at most.
        silence: say nothing where the ``[CLS]``'s sum, the least over the windows, is larger than the best span's.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.
        on_progress: called with the windows done, and all there are.
    """
    device, training = next(model.parameters()).device, model.training
    best: dict[int, tuple[float, str]] = {}
    none = [math.inf] * len(batches.questions)
    model.eval()
    try:
        for first in range(0, len(batches), CALL_WINDOWS):
            places = range(first, min(first + CALL_WINDOWS, len(batches)))
            batch = batches.take(places).to(device)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                first_BT, last_BT = model(batch)
            windows = [batches.windows[place] for place in places]
            scores, spans, empty = best_spans(first_BT, last_BT, batch, longest)
            for window, score, span, at_cls in zip(windows, scores, spans, empty, strict=True):
                number = window.question
                none[number] = min(none[number], at_cls)
                if score > best.get(number, (-math.inf, ""))[0]:
                    best[number] = score, _words(batches.questions[number], window, span)
            if on_progress is not None:
                on_progress(places[-1] + 1, len(batches))
    finally:
        model.train(training)
    said = {}
    for number, question in enumerate(batches.questions):
        score, text = best.get(number, (-math.inf, ""))
        said[question.id] = "" if silence and none[number] > score else text
    return scored(said, batches.questions)


def best_spans(
    first_BT: Tensor, last_BT: Tensor, batch: SpanBatch, longest: int
) -> tuple[list[float], list[tuple[int, int]], list[float]]:
    """The largest first[i] + last[j], i ≤ j < i + longest in each window's paragraph; i and j; and the ``[CLS]``'s sum.

    All pairs are compared, where BERT's code took those of the twenty best of each. Where the paragraph has no word,
    the sum is -inf.
    """
    first_BT, last_BT = first_BT.float(), last_BT.float()
    width = first_BT.shape[1]
    place_T = torch.arange(width, device=first_BT.device)
    # the last mark is the paragraph's by its type
    inside_BT = (batch.type_BT > 0) & (place_T < batch.mask_BT.sum(1, keepdim=True) - 1)
    apart_TT = place_T[None, :] - place_T[:, None]
    allowed_TT = (apart_TT >= 0) & (apart_TT < longest)
    nothing = float("-inf")
    starts_BT, ends_BT = (x.masked_fill(~inside_BT, nothing) for x in (first_BT, last_BT))
    sums_BTT = (starts_BT[:, :, None] + ends_BT[:, None, :]).masked_fill(~allowed_TT, nothing)
    score_B, place_B = sums_BTT.flatten(1).max(1)
    spans = [divmod(place, width) for place in place_B.tolist()]
    return score_B.tolist(), spans, (first_BT[:, 0] + last_BT[:, 0]).tolist()


def _words(question: Question, window: Window, span: tuple[int, int]) -> str:
    """The piece of the paragraph between two places of a window."""
    begin = int(window.offsets_C2[span[0] - window.begin, 0])
    return question.context[begin : int(window.offsets_C2[span[1] - window.begin, 1])]


def scored(said: Mapping[str, str], questions: Sequence[Question]) -> Answers:
    """How right answers are."""
    given = [(said[one.id], [text for text, _ in one.answers]) for one in questions]
    values = torch.tensor([f1(*pair) for pair in given], dtype=torch.float64)
    mean = float(values.mean())
    half = 1.96 * float(values.std(correction=0)) / math.sqrt(len(values))
    exact = sum(exact_match(*pair) for pair in given) / len(given)
    return Answers(said, mean, exact, max(0.0, mean - half), min(1.0, mean + half), len(given))


def heldout_answers(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    tokenizer_of: str,
    split: str = "dev",
    longest: int = 30,
    silence: bool = False,
    length: int = 384,
    stride: int = 128,
    question_length: int = 64,
) -> dict[str, Any]:
    """F1 and exact match on a file, as a line of eval.jsonl; the last evaluation of a run is like the others.

    Args:
        model, autocast_dtype, final: the trainer's.
        corpus, tokenizer_of, length, stride, question_length: what is held out (see ``span_batches``).
        split: what it is called.
        longest, silence: see ``answer_questions``.
    """
    sizes = {"length": length, "stride": stride, "question_length": question_length}
    batches = span_batches(corpus=corpus, tokenizer_of=tokenizer_of, lanes=1, seed=0, **sizes)
    found = answer_questions(model, batches, longest=longest, silence=silence, autocast=autocast_dtype)
    kept = ("f1", "exact_match", "low", "high", "questions")
    return {"split": split} | {name: getattr(found, name) for name in kept}
