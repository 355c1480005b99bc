"""Fine-tuning BERT: begins with what was pre-trained, learns, goes on exactly, exports; and what it refuses."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.reviews import STEMS, documents, write_reviews

from overnight.cli import main
from overnight.errors import UserError
from overnight.exchange.exporting import export_model
from overnight.recipes.bert import bert
from overnight.recipes.bert_classify import bert_classify
from overnight.train.build import build, construct
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

transformers: Any = pytest.importorskip("transformers", reason="needs the extra bert")
QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    corpus = write_reviews(folder / "corpus", train=40)
    run = bert(corpus, batch_size=8, steps=3, warmup_steps=1, length=32, evaluations=0, precision="fp32")
    train(replace(run, threads=1), folder / "run", QUIET)
    return folder / "run"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label says whether the text begins with a word of the first three."""
    folder = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 160), ("dev", 40), ("test", 40)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "text"])
            for index, text in enumerate(documents(count, 50 + count)):
                stem = STEMS[index % 6]
                rows.writerow([int(index % 6 < 3), f"{stem} {text}"])
    return folder


def small(run: Run, **changes: Any) -> Run:
    return replace(run, threads=1, precision="fp32", **changes)


def test_it_begins_with_what_was_pretrained(pretrained: Path, labelled: Path) -> None:
    run = bert_classify(labelled, pretrained)
    parts = build(small(run), ALONE)
    before = parts.task.model.state_dict()["network.classifier.weight"].clone()
    assert run.start is not None
    construct("start", run.start, model=parts.task.model, optimizer=parts.optimizer)
    theirs, ours = load_model(pretrained, "last").model.state_dict(), parts.task.model.state_dict()
    names = [name for name in ours if name.startswith("network.bert.")]
    assert len(names) == len(ours) - 2
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    assert torch.equal(ours["network.classifier.weight"], before)
    assert run.optimizer.keywords["lr"] == 1e-4
    assert bert_classify(labelled, pretrained, batch_size=128).optimizer.keywords["lr"] == pytest.approx(2e-4)


def test_it_learns_goes_on_exactly_and_loads_elsewhere(
    pretrained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bert_classify(labelled, pretrained, lr=2e-3, epochs=8, dropout=0.0, length=40, evaluations=1)
    run = small(run, checkpoint_steps=20, keep_last=9)
    summary = train(run, tmp_path / "whole", QUIET)
    assert summary["final"]["split"] == "dev"
    assert summary["final"]["text_accuracy"] > 0.8
    one = load_checkpoint(tmp_path / "whole" / "checkpoints" / "00000040")
    train(run, tmp_path / "whole", replace(QUIET, resume=True, checkpoint="20"))
    two = load_checkpoint(tmp_path / "whole" / "checkpoints" / "00000040")
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)
    assert main(["evaluate", str(tmp_path / "whole"), "--split", "test", "--device", "cpu"]) == 0
    assert "test: accuracy" in capsys.readouterr().out
    export_model(tmp_path / "whole", "transformers", tmp_path / "out", "last")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.num_labels == 2


def test_what_is_refused(pretrained: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        bert_classify(labelled, tmp_path)
    with pytest.raises(UserError, match="no tuned rate of LAMB"):
        bert_classify(labelled, pretrained, optimizer="lamb")
    with pytest.raises(UserError, match="1000 word pieces is longer than the 512 positions"):
        bert_classify(labelled, pretrained, length=1000)
    train(small(bert_classify(labelled, pretrained, epochs=0.2), evaluations=0), tmp_path / "run", QUIET)
    with pytest.raises(UserError, match="not of bert"):
        bert_classify(labelled, tmp_path / "run")
