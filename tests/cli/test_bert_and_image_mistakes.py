"""Mistakes with BERT and images at the command line: exit code 2, a sentence that names it, nothing half-written."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles.pictures import encoded, pictures, write_cifar, write_folders
from oracles.questions import write_questions
from oracles.reviews import write_reviews

from overnight.cli import main
from overnight.data.images import sources

pytest.importorskip("transformers", reason="needs the extra bert")
pytest.importorskip("PIL", reason="needs the extra images")
Fail = Callable[..., str]


@pytest.fixture
def fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Fail]:
    """Run a command that must fail, and must not make ``run``; returns what it said."""

    def run(*words: object) -> str:
        capfd.readouterr()
        sources._held.cache_clear()
        sources._listing.cache_clear()
        assert main([str(word) for word in words]) == 2
        said = capfd.readouterr().err
        last = said.splitlines()[-1]
        assert last.startswith("overnight: "), said
        assert "Traceback" not in said
        assert not (tmp_path / "run").exists()
        return last.removeprefix("overnight: ")

    yield run
    sources._held.cache_clear()
    sources._listing.cache_clear()


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "corpus", train=40)


@pytest.fixture(scope="module")
def pretrained(reviews: Path) -> Path:
    out = reviews.parent / "pretrained"
    size = ("--batch-size", "8", "--steps", "2", "--warmup-steps", "1", "--length", "32", "--evaluations", "0")
    assert main(["train", "bert", "--data", str(reviews), "--out", str(out), *size, "--set", "threads=1"]) == 0
    return out


def test_corpora_and_tokenizers_of_bert(tmp_path: Path, reviews: Path, pretrained: Path, fail: Fail) -> None:
    out = ("--out", tmp_path / "run")
    flat = write_reviews(tmp_path / "flat", train=20, sentences="line")
    said = fail("train", "bert", "--data", flat, *out)
    assert said.startswith(f"No document of {flat} has two sentences, so there is no next sentence to tell. ")
    assert "--no-next-sentence" in said
    other = write_reviews(tmp_path / "other", train=20, tokenizer=None, vocab_size=60)
    two = ("--phase", "2", "--from", pretrained, "--steps", "200")
    for words in (("train", "bert", "--data", other, *two, *out), ("evaluate", pretrained, "--data", other)):
        assert fail(*words).startswith(f"The word pieces of {other} are not those that {pretrained} was trained with. ")
    (tmp_path / "bpe.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    (tmp_path / "a.txt").write_text("A film. A plot.")
    said = fail("prepare", tmp_path / "a.txt", "--bert", "--tokenizer", tmp_path / "bpe.json", *out)
    assert "bpe.json holds BPE, not word pieces. " in said
    (tmp_path / "empty.txt").write_text("\n")
    assert "hold no document" in fail("prepare", tmp_path / "empty.txt", "--bert", *out)


def test_phases_and_lengths_of_bert(tmp_path: Path, reviews: Path, pretrained: Path, fail: Fail) -> None:
    train = ("train", "bert", "--data", reviews, "--out", tmp_path / "run")
    assert fail(*train, "--phase", "2").startswith(
        "Phase 2 goes on with the weights and the optimizer's state of phase 1"
    )
    assert fail(*train, "--phase", "2", "--from", tmp_path / "none").startswith(
        f"{tmp_path / 'none'} is not a run folder"
    )
    said = fail(*train, "--length", "513")
    assert (
        said
        == "A sequence of 513 word pieces is longer than the 512 positions of the model. Take --length 512 or less."
    )
    said = fail(*train, "--phase", "2", "--from", pretrained, "--steps", "200", "--optimizer", "adamw")
    assert "holds the state of overnight.optim.LAMB; this run has torch.optim.AdamW" in said


def test_phase_2_of_what_is_not_finished_says_so(
    tmp_path: Path, reviews: Path, pretrained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pretrained, copy)
    said = json.loads((copy / "run.json").read_text())
    assert said["derived"]["total_steps"] == 2
    said["derived"]["total_steps"] = 90
    (copy / "run.json").write_text(json.dumps(said))
    size = ("--batch-size", "4", "--steps", "1", "--warmup-steps", "0", "--length", "32", "--evaluations", "0")
    words = ["train", "bert", "--data", str(reviews), "--phase", "2", "--out", str(tmp_path / "run"), *size]
    assert main([*words, "--from", str(copy), "--set", "threads=1"]) == 0
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["run"]["notes"]
    assert f"{copy} is not finished: phase 2 goes on from its step 2 of 90" in notes
    assert not any("not finished" in note for note in json.loads((pretrained / "run.json").read_text())["run"]["notes"])


def test_questions(tmp_path: Path, pretrained: Path, fail: Fail) -> None:
    folder = write_questions(tmp_path / "questions", train=4, dev=2)
    train = ("train", "bert-squad", "--data", folder, "--from", pretrained, "--out", tmp_path / "run")
    assert "longer than the 512 positions" in fail(*train, "--length", "1000")
    path = folder / "dev-v1.1.json"
    root = json.loads(path.read_text())
    root["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    path.write_text(json.dumps(root))
    assert fail(*train).startswith(f"{path}: question '8-0-0': its answer 'Ending' does not stand at character ")
    path.unlink()
    assert fail(*train).startswith(f"{folder} has no file dev….json. ")


def test_images_that_cannot_be_read(tmp_path: Path, fail: Fail) -> None:
    folder = write_folders(tmp_path / "pictures")
    train = ("train", "resnet", "--data", folder, "--batch-size", "4", "--out", tmp_path / "run")
    whole = encoded(pictures(1, 9)[0][0], "JPEG")
    (folder / "train" / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "b" / "no.png").write_bytes(b"no image")
    said = fail(*train)
    assert said.startswith("2 of 14 images cannot be decoded: ")
    assert f"{folder / 'train' / 'a' / 'cut.jpg'} (" in said
    assert "--bad-images skip" in said
    shutil.rmtree(folder / "test" / "c")
    assert fail(*train).startswith(f"{folder}: the classes of train and test differ: test has no c. ")
    (folder / "test" / "c").mkdir()
    assert fail(*train).startswith(f"Class 'c' is empty: {folder / 'test' / 'c'} has no image. ")


def test_batches_that_no_virtual_batch_divides(tmp_path: Path, fail: Fail) -> None:
    cifar = write_cifar(tmp_path / "cifar")
    train = ("train", "resnet", "--data", cifar, "--out", tmp_path / "run")
    said = fail(*train, "--batch-size", "20", "--norm", "ghost:8")
    assert said == "A batch of 20 is no multiple of the virtual batch of 8. Take --batch-size 16."
    assert fail(*train, "--batch-size", "20", "--norm", "layer").startswith("There is no norm 'layer'. ")
