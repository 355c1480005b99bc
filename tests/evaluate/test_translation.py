"""Held-out pairs and translations: exact whatever the batch; BLEU as sacrebleu has it; the commands."""

import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles.pairs import sentences, write_pairs

from overnight.cli import main
from overnight.data.pairs import PairCorpus
from overnight.data.pairs.batches import gather
from overnight.errors import UserError
from overnight.evaluate.beam import Beam
from overnight.evaluate.bleu import bleu_is_there, corpus_bleu
from overnight.evaluate.translation import evaluate_pairs, heldout_pairs, translate, translate_lines
from overnight.models.seq2seq import GNMT
from overnight.recipes.gnmt import gnmt
from overnight.train.launch import Options, train

needs_sacrebleu = pytest.mark.skipif(not bleu_is_there(), reason="the extra text is not installed")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "corpus", train=600)


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A translator that has learned to turn sentences of up to six words round."""
    budget = {"batch_size": 60, "epochs": 20.0, "evaluations": 1}
    made = gnmt(folder, **budget, lr=0.03, dropout=0.0, smoothing=0.0, precision="fp32", max_norm=1.0)  # type: ignore[arg-type]
    for setting in ("hidden_size=32", "encoder_layers=2", "decoder_layers=2", "init_range=0.3"):
        made = made.with_setting(f"model.{setting}")
    made = made.with_setting("threads=1").with_setting("schedule.warmup_samples=300")
    path = tmp_path_factory.mktemp("runs") / "run"
    train(made, path, Options(device="cpu", quiet=True))
    return path


def untrained(corpus: PairCorpus) -> GNMT:
    torch.manual_seed(0)
    return GNMT(*corpus.vocab_sizes, hidden_size=6, encoder_layers=2, decoder_layers=2, init_range=0.5)


def test_perplexity_is_that_of_one_pair_after_another(folder: Path) -> None:
    corpus = PairCorpus(folder)
    model, stream = untrained(corpus), corpus.split("valid")
    found = evaluate_pairs(model, corpus, "valid")
    nats = sum(model.eval().loss(gather(stream, np.array([i]), corpus.bos))[0].item() for i in range(stream.pairs))
    words = sum(len(line.split()) + 1 for line in sentences(40, 2)[1])
    assert found.words == words
    assert found.perplexity == pytest.approx(math.exp(nats / words), rel=1e-5)
    assert found.low < found.perplexity < found.high
    with pytest.raises(UserError, match="'dev' is not a split"):
        evaluate_pairs(model, corpus, "dev")


@needs_sacrebleu
def test_a_run_learns_and_translates(run: Path, folder: Path) -> None:
    (line,) = [json.loads(text) for text in (run / "eval.jsonl").read_text().splitlines()]
    final = json.loads((run / "summary.json").read_text())["final"]
    assert line["perplexity"] == final["perplexity"] < 2
    assert "bleu" not in line
    assert final["bleu"] > 60
    assert final["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@needs_sacrebleu
def test_evaluate_says_what_the_run_said(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = json.loads((run / "summary.json").read_text())["final"]
    assert main(["evaluate", str(run), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["perplexity"] == pytest.approx(final["perplexity"], rel=1e-6)
    assert (record["bleu"], record["bleu_signature"]) == (pytest.approx(final["bleu"]), final["bleu_signature"])
    assert record["beam"]["size"] == 5
    assert main(["evaluate", str(run), "--split", "test"]) == 0
    shown = capsys.readouterr().out
    assert "test: BLEU " in shown
    assert "tok:13a" in shown
    assert main(["evaluate", str(run), "--split", "train"]) == 0
    assert "BLEU" not in capsys.readouterr().out
    assert main(["evaluate", str(run), "--dynamic"]) == 2
    assert "Leave out --dynamic" in capsys.readouterr().err


def test_translate_reads_lines(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = "w1 w2\n\nw3 w4 w5\nw1 w2"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given.encode())))
    assert main(["translate", str(run), "--beam", "2", "--at-once", "3"]) == 0
    said = capsys.readouterr().out.split("\n")
    assert len(said) == 5
    assert (said[0], said[1]) == (said[3], "")
    assert set("".join(said).replace(" ", "").replace("v", "")) <= set("0123456789")
    assert main(["translate", str(run), "--beam", "0"]) == 2
    assert "A beam of 0 cannot be" in capsys.readouterr().err


def test_translations_come_in_order_and_do_not_depend_on_the_batch(folder: Path) -> None:
    corpus = PairCorpus(folder)
    model, coders = untrained(corpus), (corpus.coder("source"), corpus.coder("target"))
    lines = [*sentences(70, 5)[0], "", "unknown words"]
    beam = Beam(2, max_factor=1, max_extra=1)
    whole = translate(model, lines, *coders, beam=beam)
    assert whole == list(translate_lines(model, lines, *coders, at_once=7, beam=beam))
    assert whole[70] == ""
    assert len(set(whole)) > 1
    assert "<unk>" not in " ".join(whole)


def test_no_bleu_without_sacrebleu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    assert not bleu_is_there()
    with pytest.raises(UserError, match=r"pip install 'overnight\[text\]'"):
        corpus_bleu(["a"], ["a"])
    run = gnmt(folder)
    assert "no BLEU at the end" in " ".join(run.notes)
    assert run.evaluate is not None
    corpus = PairCorpus(folder)
    record = heldout_pairs(model=untrained(corpus), autocast_dtype=None, final=True, **run.evaluate.keywords)
    assert "bleu" not in record


@needs_sacrebleu
def test_bleu() -> None:
    assert corpus_bleu(["the cat sat on the mat"], ["the cat sat on the mat"]).bleu == pytest.approx(100)
    # one word of six is wrong: 5/6, 4/5, 3/4 and 2/3 of the n-grams are right
    one_wrong = corpus_bleu(["the cat sat on the rug"], ["the cat sat on the mat"], tokenize="none")
    assert one_wrong.bleu == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert "tok:none" in one_wrong.signature
    short = corpus_bleu(["the cat sat on"], ["the cat sat on the mat"])
    assert short.bleu == pytest.approx(100 * math.exp(1 - 6 / 4))
    with pytest.raises(UserError, match="no tokenizer 'klingon'"):
        corpus_bleu(["a"], ["a"], tokenize="klingon")
    with pytest.raises(UserError, match="1 translations for 2 references"):
        corpus_bleu(["a"], ["a", "b"])


def test_another_corpus_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_pairs(tmp_path / "other", train=20)
    assert main(["evaluate", str(run), "--data", str(other)]) == 2
    assert "has other vocabularies" in capsys.readouterr().err
