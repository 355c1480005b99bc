"""Perplexity of held-out words: every word once, whatever the lanes; dynamic evaluation; another vocabulary."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles.corpus import write_corpus
from oracles.words import write_words

from overnight.cli import main
from overnight.data.corpus import Corpus
from overnight.data.words.corpus import WordCorpus
from overnight.errors import UserError
from overnight.evaluate.dynamic import evaluate_dynamically
from overnight.evaluate.scoring import Dynamic
from overnight.evaluate.words import evaluate_words, load_word_model, word_baselines
from overnight.models.byte_lm import ByteLM
from overnight.models.neural_lm import FeedForwardLM
from overnight.models.word_lm import WordLM
from overnight.recipes.word_lm import word_lm
from overnight.train.launch import Options, train


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "corpus", train=100, held_out=40)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has less than one block; this gives it an interval, and lanes."""
    monkeypatch.setattr("overnight.evaluate.words.BLOCK_WORDS", 20)
    monkeypatch.setattr("overnight.evaluate.words.CALL_WORDS", 28)


def make(vocab_size: int, **settings: Any) -> WordLM:
    torch.manual_seed(0)
    return WordLM(vocab_size, 12, 16, init_range=0.5, **settings)


def by_hand(model: WordLM, ids: list[int], eos: int) -> float:
    """Summed nats of all words, one call, the first read after eos."""
    sequence = torch.tensor([eos, *ids]).unsqueeze(1)
    with torch.no_grad():
        log_p, _ = model.eval()(sequence[:-1])
    return F.nll_loss(log_p[:, 0], sequence[1:, 0], reduction="sum").item()


@pytest.mark.parametrize("output", ["full", "sampled:9", "nce:9", "adaptive:5,20"])
def test_every_word_is_scored_once_exactly(words: Path, output: str) -> None:
    corpus = WordCorpus(words)
    stream = corpus.split("test")
    assert corpus.eos is not None
    model = make(corpus.vocab_size, output=output)
    found = evaluate_words(model, stream, eos=corpus.eos, vocab_size=corpus.vocab_size, lanes=1)
    expected = math.exp(by_hand(model, stream.read(0, len(stream)).tolist(), corpus.eos) / len(stream))
    assert found.perplexity == pytest.approx(expected, rel=1e-5)
    assert (found.words, found.lanes) == (len(stream), 1)
    assert found.low < found.perplexity < found.high
    model.train()
    many = evaluate_words(model, stream, eos=corpus.eos, vocab_size=corpus.vocab_size, lanes=7, warm_up=len(stream))
    assert model.training
    assert many.lanes == 7
    assert many.perplexity == pytest.approx(expected, rel=1e-3)  # lanes warm up on a circle


def test_resets_at_sentences_and_contexts_of_words(words: Path) -> None:
    corpus = WordCorpus(words)
    stream = corpus.split("test")
    torch.manual_seed(0)
    model = FeedForwardLM(corpus.vocab_size, 8, 12, context=3, pad=4)
    found = evaluate_words(model, stream, eos=corpus.eos, vocab_size=corpus.vocab_size, reset="sentence", lanes=1)
    ids, total = stream.read(0, len(stream)).tolist(), 0.0
    history: list[int] = [4, 4, corpus.eos]
    for word in ids:
        x = model.embedding(torch.tensor(history[-3:][::-1])).flatten()
        total -= model.output.log_prob(torch.tanh(model.input(x)).unsqueeze(0))[0, word].item()
        history = [4, 4, corpus.eos] if word == corpus.eos else [*history, word]
    assert found.perplexity == pytest.approx(math.exp(total / len(ids)), rel=1e-4)


def test_the_unigram_baseline(words: Path) -> None:
    corpus = WordCorpus(words)
    train_ids, test_ids = (corpus.split(name).read(0, len(corpus.split(name))).tolist() for name in ("train", "test"))
    counts = [train_ids.count(word) + 1 for word in range(corpus.vocab_size)]
    nats = -sum(math.log(counts[word] / sum(counts)) for word in test_ids)
    (found,) = word_baselines(corpus=str(words), split="test")
    assert found == {"name": "unigram", "perplexity": pytest.approx(math.exp(nats / len(test_ids)))}


def test_dynamic_evaluation_is_the_loop_of_its_formula(words: Path) -> None:
    corpus = WordCorpus(words)
    stream = corpus.split("test").head(60)
    model = make(corpus.vocab_size)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = Dynamic(lr=0.5, decay=0.1, length=4)
    found = evaluate_words(model, stream, eos=corpus.eos, vocab_size=corpus.vocab_size, lanes=1, dynamic=settings)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    ids, total, carry = torch.tensor([corpus.eos, *stream.read(0, 60).tolist()]).unsqueeze(1), 0.0, None
    for start in range(0, 60, 4):
        h, carry = model.hidden(ids[start : start + 4], carry)
        loss = model.output.exact(h, ids[start + 1 : start + 5])
        carry = {name: part.detach() for name, part in carry.items()}
        total += loss.item()
        gradients = torch.autograd.grad(loss / 4, list(model.parameters()))
        with torch.no_grad():
            for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
                p += 0.1 * (before[name] - p) - 0.5 * gradient
    assert found.perplexity == pytest.approx(math.exp(total / 60), rel=1e-5)


def test_dynamic_evaluation_of_bytes_learns_from_what_it_reads(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=[[b"x"]], test=[[b"abcdefgh" * 60]])
    torch.manual_seed(0)
    model = ByteLM(hidden_size=16, embedding_size=8).requires_grad_(False)
    stream = Corpus(corpus).split("test")
    adapted = evaluate_dynamically(model, stream, Dynamic(lr=0.5, length=8))
    assert adapted.bytes == 480
    assert adapted.bits_per_byte < 5
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="cannot have a rate of 0 and a decay of 0"):
        evaluate_dynamically(model, stream, Dynamic(lr=0.0))


def test_the_command(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = word_lm(words, batch_size=4, length=6, steps=4).with_setting("model.hidden_size=12")
    run = run.with_setting("model.embedding_size=12").with_setting("precision=fp32").with_setting("evaluations=1")
    train(run, tmp_path / "run", Options(device="cpu", quiet=True))
    assert main(["evaluate", str(tmp_path / "run"), "--split", "test", "--json", "--baselines", "--lanes", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    loaded = load_word_model(tmp_path / "run", device="cpu")
    corpus = WordCorpus(words)
    expected = evaluate_words(loaded.model, corpus.split("test"), eos=corpus.eos, vocab_size=corpus.vocab_size, lanes=1)
    assert found["perplexity"] == pytest.approx(expected.perplexity)
    assert (found["words"], found["eos"], found["split"]) == (len(corpus.split("test")), "scored", "test")
    assert main(["evaluate", str(tmp_path / "run"), "--split", "test", "--dynamic", "--dynamic-lr", "1"]) == 0
    assert "dynamic evaluation" in capsys.readouterr().out
    other = write_words(tmp_path / "other", train=100, held_out=20, vocabulary=50)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(other)]) == 2
    said = capsys.readouterr().err
    assert "has another vocabulary (52 words" in said
    assert "--vocab" in said
