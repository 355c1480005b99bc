"""A translator on two ranks, whose shares of a batch have other lengths, is one on one rank."""

import json
from pathlib import Path

import pytest
from oracles.pairs import write_pairs
from train.launching import lines, overnight


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    corpus = write_pairs(tmp_path / "corpus", train=200)
    settings = ["model.hidden_size=12", "threads=1", "log_every=3"]
    argv = ["train", "gnmt", "--data", str(corpus), "--batch-size", "18", "--steps", "27", "--lr", "0.02"]
    argv += ["--dropout", "0", "--precision", "fp32", "--evaluations", "0", "--device", "cpu"]
    argv += [word for setting in settings for word in ("--set", setting)]
    for ranks, extra in ((1, []), (2, ["--micro-batch-size", "3"])):
        overnight([*argv, *extra, "--out", str(tmp_path / str(ranks))], tmp_path / f"logs-{ranks}", ranks)
    one, two = (lines(tmp_path / str(ranks) / "metrics.jsonl") for ranks in (1, 2))
    assert [line["tokens"] for line in two] == [line["tokens"] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert one[-1]["loss"] < one[0]["loss"]
    derived = json.loads((tmp_path / "2" / "run.json").read_text())["derived"]
    assert derived["batch"] == "18 = 2 ranks × 3 accumulation × 3 micro-batch"
