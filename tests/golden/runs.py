"""The runs whose first losses are kept, on text that is the same on every machine and Python."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from oracles.corpus import write_corpus
from oracles.digits import write_digits
from oracles.pairs import write_pairs
from oracles.pictures import write_cifar
from oracles.questions import write_questions
from oracles.ratings import write_ratings
from oracles.reviews import documents, write_reviews
from oracles.words import write_words

from overnight.recipes import find
from overnight.train.launch import Options, train
from overnight.train.run import Run

STEPS = 5


def text(size: int, seed: int) -> bytes:
    """Words of a small vocabulary, from a linear congruential generator: ``random`` may change between Pythons."""
    out, state = bytearray(), seed
    while len(out) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        word = (state >> 40) % 97
        out += bytes(97 + (word * place) % 26 for place in range(1, 3 + word % 6))
        out += b"\n" if word % 11 == 0 else b" "
    return bytes(out[:size])


def make_corpus(folder: Path) -> Path:
    """Two shards of four documents to train on, and a held-out one."""
    shards = [[text(5000, 10 * shard + document) for document in range(4)] for shard in range(2)]
    return write_corpus(folder, train=shards, valid=[[text(3000, 99)]])


def byte_lm(corpus: Path) -> Run:
    run: Run = find("byte-lm")(corpus, preset="laptop", steps=STEPS)
    return run.with_setting("model.hidden_size=32")


def builtin(corpus: Path) -> Run:
    """The recipe as it is; its corpus alone is exchanged, since every Python's standard library is another text."""
    with mock.patch("overnight.data.builtin.builtin_corpus", return_value=corpus):
        run: Run = find("builtin")(steps=STEPS)
    return run


def words(preset: str, **changes: Any) -> Callable[[Path], Run]:
    """A preset of the word language models at sizes that take no time, on a corpus of words."""

    def recipe(corpus: Path) -> Run:
        run: Run = find("word-lm")(write_words(corpus / "words"), preset=preset, batch_size=4, steps=STEPS, **changes)
        for name in ("embedding_size", "hidden_size"):
            run = run.with_setting(f"model.{name}=16")
        return run.with_setting("model.projection=8") if run.model.keywords.get("projection") else run

    return recipe


def translator(corpus: Path) -> Run:
    """The recipe at a size that takes no time, on a corpus of pairs."""
    run: Run = find("gnmt")(write_pairs(corpus / "pairs"), batch_size=24, steps=25, lr=0.01)
    return replace(run.with_setting("model.hidden_size=16"), steps=STEPS)


def bert(**changes: Any) -> Callable[[Path], Run]:
    """BERT at a size that takes no time, on a corpus whose word pieces are given."""

    def recipe(corpus: Path) -> Run:
        reviews = write_reviews(corpus / "reviews", train=40)
        run: Run = find("bert")(reviews, batch_size=8, steps=STEPS, warmup_steps=2, length=32, dropout=0.0, **changes)
        return run.with_setting("model.hidden_size=16")

    return recipe


def pretrained(folder: Path) -> Path:
    """Two steps of BERT at that size."""
    made = replace(bert()(folder), steps=2, precision="fp32", threads=1, evaluations=0)
    train(made, folder / "pretrained", Options(device="cpu", quiet=True))
    return folder / "pretrained"


def bert_classify(corpus: Path) -> Run:
    """Documents of two classes, in batches of all ranks' size, from a BERT of two steps."""
    (corpus / "texts").mkdir()
    for split, count in (("train", 40), ("test", 8)):
        lines = [f"{number % 2} {text}\n" for number, text in enumerate(documents(count, 7))]
        (corpus / "texts" / f"{split}.txt").write_text("".join(lines))
    run: Run = find("bert-classify")(corpus / "texts", pretrained(corpus), batch_size=16, lr=1e-2, dropout=0.0)
    return replace(run, epochs=None, steps=STEPS)


def bert_squad(corpus: Path) -> Run:
    """Questions with silence among the answers, in windows that overlap, from a BERT of two steps."""
    files = write_questions(corpus / "questions", train=40, dev=6, unanswered=3)
    sizes = {"length": 32, "stride": 16, "question_length": 6}
    run: Run = find("bert-squad")(files, pretrained(corpus), batch_size=16, lr=1e-2, dropout=0.0, **sizes)
    return replace(run, epochs=None, steps=STEPS)


def mnist_lstm(**changes: Any) -> Callable[[Path], Run]:
    """The row LSTM at a size that takes no time, on images of bars."""

    def recipe(corpus: Path) -> Run:
        digits = write_digits(corpus / "digits", train=60, test=10)
        run: Run = find("mnist-lstm")(digits, batch_size=24, steps=STEPS, warmup_steps=2, **changes)
        return run.with_setting("model.hidden_size=16")

    return recipe


def images(recipe: str, **changes: Any) -> Callable[[Path], Run]:
    """A classifier of small colour images, with augmentation, at a size that takes no time."""

    def make(corpus: Path) -> Run:
        run: Run = find(recipe)(write_cifar(corpus / "cifar"), batch_size=20, steps=STEPS, warmup_epochs=0.4, **changes)
        if recipe == "resnet":
            return run.with_setting("model.width=4")
        return run.with_setting("model.widths=(8,8,8,8,8)").with_setting("model.hidden=16")

    return make


def recommender(**changes: Any) -> Callable[[Path], Run]:
    """A preset of the recommender at a size that takes no time."""

    def recipe(corpus: Path) -> Run:
        ratings = write_ratings(corpus / "ratings.csv")
        run: Run = find("recommender")(ratings, hidden=(16, 8), batch_size=8, lr=0.01, steps=STEPS, **changes)
        return run

    return recipe


RUNS: dict[str, Callable[[Path], Run]] = {
    "gnmt": translator,
    "bert": bert(),
    "bert-packed": bert(pack=True, whole_words=True, optimizer="adamw"),
    "bert-classify": bert_classify,
    "bert-squad": bert_squad,
    "byte-lm": byte_lm,
    "builtin": builtin,
    "ptb-small": words("ptb-small", lr=1.0),
    "ptb-medium": words("ptb-medium", lr=1.0, length=10),
    "ptb-large": words("ptb-large", lr=1.0, length=10),
    "wsj-lstm": words("wsj-lstm", lr=1.0),
    "wsj-rnn": words("wsj-rnn", lr=0.5),
    "wsj-fnn": words("wsj-fnn", lr=0.5),
    "lm1b": words("lm1b", lr=0.2, output="sampled:20", gates="grouped:4"),
    "resnet": images("resnet"),
    "resnet-lars": images("resnet", optimizer="lars", norm="ghost:10", label_smoothing=0.1),
    "alexnet": images("alexnet", lr=0.02),
    "alexnet-bn-lamb": images("alexnet", preset="cifar-small-bn", optimizer="lamb"),
    "mnist-lstm": mnist_lstm(lr=0.1),
    "mnist-lstm-lamb": mnist_lstm(optimizer="lamb", lr=0.01),
    "mnist-lstm-lars": mnist_lstm(optimizer="lars", lr=10.0),
    "recommender": recommender(),
    "recommender-netflix": recommender(preset="netflix"),
    "lm1b-small": words("lm1b-small", lr=0.2, output="sampled:20", gates="factorized:4"),
}


def first_losses(name: str, work: Path) -> list[float]:
    """Train in ``work``, in fp32 on one thread, and read the losses from metrics.jsonl."""
    run = RUNS[name](make_corpus(work / "corpus"))
    run = replace(run, precision="fp32", threads=1, log_every=1, evaluations=0)
    train(run, work / "run", Options(device="cpu", quiet=True))
    lines = (work / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def golden_file(name: str) -> Path:
    return Path(__file__).parent / f"{name}.json"
