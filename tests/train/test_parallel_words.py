"""Word models on two ranks: sparse and tied rows, sampled or by local steps, and back from a checkpoint."""

import shutil
from pathlib import Path

import pytest
from oracles.words import write_words
from train.launching import lines, overnight, same_end

from overnight.train.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "corpus")


WAYS = {
    "sampled words": ["sampled", "--output", "sampled:12"],
    "tied, sampled words": ["sampled", "--output", "sampled:12", "--tied", "--set", "parallel.dtype=bf16"],
    "tied, all words": ["sampled", "--tied"],
    "local": ["local", "--output", "sampled:12", "--set", "parallel.every=2"],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_word_model_resumes_to_the_bit(words: Path, tmp_path: Path, way: list[str]) -> None:
    out = tmp_path / "whole"
    argv = ["train", "word-lm", "--data", str(words), "--out", str(out), "--preset", "wsj-lstm", "--batch-size", "4"]
    argv += [
        "--length",
        "5",
        "--steps",
        "8",
        "--evaluations",
        "1",
        "--lr",
        "0.5",
        "--dropout",
        "0.2",
        "--parallel",
        *way,
    ]
    for setting in ("checkpoint_steps=4", "keep_last=9", "precision=fp32", "log_every=1", "threads=1"):
        argv += ["--set", setting]
    for name in ("embedding_size", "hidden_size"):
        argv += ["--set", f"model.{name}=12"]
    overnight(argv, tmp_path / "logs", 2)
    shutil.copytree(out, tmp_path / "cut")
    overnight(["train", str(tmp_path / "cut"), "--resume", "--checkpoint", "4"], tmp_path / "logs", 2)
    same_end(tmp_path / "cut", out)
    saved = load_checkpoint(out / "checkpoints" / "00000008")
    assert saved.parallel
    assert lines(out / "metrics.jsonl")[-1]["sent_bytes"] < 4 * sum(tensor.numel() for tensor in saved.model.values())
