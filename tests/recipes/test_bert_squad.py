"""Fine-tuning BERT on questions: learns to mark answers, goes on exactly, says nothing where it should, exports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.questions import write_questions
from oracles.reviews import write_reviews

from overnight.cli import main
from overnight.cli.outcome import print_outcome
from overnight.errors import UserError
from overnight.exchange.exporting import export_model
from overnight.recipes.bert import bert
from overnight.recipes.bert_squad import bert_squad
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.launch import Options, train
from overnight.train.run import Run

transformers: Any = pytest.importorskip("transformers", reason="needs the extra bert")
QUIET = Options(device="cpu", quiet=True)
SIZES = {"length": 40, "stride": 16, "question_length": 6}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    corpus = write_reviews(folder / "corpus", train=40)
    run = bert(corpus, batch_size=8, steps=3, warmup_steps=1, length=32, evaluations=0, precision="fp32")
    train(replace(run, threads=1), folder / "run", QUIET)
    return folder / "run"


def small(run: Run, **changes: Any) -> Run:
    return replace(run, threads=1, precision="fp32", **changes)


def test_what_a_run_is(pretrained: Path, tmp_path: Path) -> None:
    folder = write_questions(tmp_path)
    run = bert_squad(folder, pretrained)
    assert (run.optimizer.keywords["lr"], run.epochs, run.global_batch_size) == (5e-5, 3.0, 32)
    assert run.optimizer.keywords["betas"] == (0.9, 0.999)
    assert bert_squad(folder, pretrained, batch_size=128).optimizer.keywords["lr"] == pytest.approx(1e-4)
    assert "positions beyond have their initial values" in run.notes[0]
    assert "96 questions in 96 windows, of which 96 hold the answer" in run.notes[-1]
    assert run.evaluate is not None
    assert run.evaluate.keywords["silence"] is False
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()


def test_it_learns_goes_on_exactly_and_loads_elsewhere(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_questions(tmp_path / "questions")
    run = small(bert_squad(folder, pretrained, lr=2e-3, epochs=10, batch_size=24, dropout=0.0, evaluations=1, **SIZES))
    run = replace(run, checkpoint_steps=20, keep_last=9)
    summary = train(run, tmp_path / "run", QUIET)
    final = summary["final"]
    assert (final["split"], final["questions"]) == ("dev", 20)
    assert final["f1"] > 0.8
    assert final["low"] <= final["f1"] <= final["high"]
    end = f"{summary['step']:08}"
    one = load_checkpoint(tmp_path / "run" / "checkpoints" / end)
    train(run, tmp_path / "run", replace(QUIET, resume=True, checkpoint="20"))
    two = load_checkpoint(tmp_path / "run" / "checkpoints" / end)
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)
    assert print_outcome(tmp_path / "run", summary) == 0
    assert "held-out F1 (20 questions of dev)" in capsys.readouterr().out
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "F1" in page
    assert "bits per byte" not in page.lower()
    assert main(["evaluate", str(tmp_path / "run"), "--json", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["f1"] == pytest.approx(final["f1"])
    assert said["said"]["8-0-0"].startswith("Ending")
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(folder / "train-v1.1.json"), "--device", "cpu"]) == 0
    assert "exact match" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no file test"):
        main_raising(["evaluate", str(tmp_path / "run"), "--split", "test"])
    export_model(tmp_path / "run", "transformers", tmp_path / "out", "last")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        mine = load_model(tmp_path / "run", "last").model.network(input_ids=ids)
        torch.testing.assert_close(model(input_ids=ids).start_logits, mine.start_logits)


def main_raising(argv: list[str]) -> None:
    from overnight.cli.evaluate import main as evaluate

    evaluate(argv[1:])


def test_silence_is_learnt_where_questions_have_no_answer(pretrained: Path, tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "questions", unanswered=2)
    run = bert_squad(folder, pretrained, lr=2e-3, epochs=10, batch_size=24, dropout=0.0, evaluations=1, **SIZES)
    assert run.evaluate is not None
    assert run.evaluate.keywords["silence"] is True
    assert "silence is an answer" in run.notes[-1]
    summary = train(small(run), tmp_path / "run", QUIET)
    assert summary["final"]["f1"] > 0.7  # half of them without silence


def test_what_is_refused(pretrained: Path, tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "questions", train=4, dev=2)
    with pytest.raises(UserError, match="600 word pieces is longer than the 512 positions"):
        bert_squad(folder, pretrained, length=600)
    with pytest.raises(UserError, match="no tuned rate of LAMB"):
        bert_squad(folder, pretrained, optimizer="lamb")
    with pytest.raises(UserError, match="Answers of at most 0 word pieces"):
        bert_squad(folder, pretrained, longest=0)
    with pytest.raises(UserError, match="A batch of 0 cannot work"):
        bert_squad(folder, pretrained, batch_size=0)
    with pytest.raises(UserError, match="is not a run folder"):
        bert_squad(folder, tmp_path)
    mixed = write_questions(tmp_path / "mixed", train=4, dev=8, unanswered=3)
    with pytest.raises(UserError, match=r"has questions without an answer, and .* has none to learn silence from"):
        bert_squad(folder / "train-v1.1.json", pretrained, dev=mixed / "dev-v1.1.json")
