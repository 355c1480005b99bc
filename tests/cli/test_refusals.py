"""Every mistake ends with exit code 2, one sentence and its remedy, no traceback, and nothing half-written."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.corpus import write_corpus

from overnight.cli import main
from overnight.errors import UserError
from overnight.recipes import find
from overnight.train.launch import Options, train

TINY = ("--batch-size", "4", "--length", "8", "--steps", "2", "--set", "model.hidden_size=8", "--device", "cpu")
Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, str | None]:
    """Every path below a folder, and for a file what is in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [bytes(97 + (index * place) % 26 for place in range(99)) + b"\n" for index in range(1, 21)]
    return write_corpus(tmp_path / "corpus", train=[documents], valid=[documents[:5]])


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> Path:
    """A finished run."""
    made = find("byte-lm")(corpus, batch_size=4, length=8, steps=2, evaluations=0)
    train(made.with_setting("model.hidden_size=8"), tmp_path / "run", Options(device="cpu", quiet=True))
    return tmp_path / "run"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused: exit 2, one sentence and a remedy on stderr, and no file made or changed.

    Returns what was said.
    """
    monkeypatch.chdir(tmp_path)

    def refuse(*argv: object) -> str:
        words = [str(argument) for argument in argv]
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        with pytest.raises(UserError) as caught:
            main([*words, "--debug"])
        assert snapshot(tmp_path) == before
        problem, remedy = caught.value.problem, caught.value.remedy
        assert said == f"overnight: {problem} {remedy}\n"
        assert problem.endswith(".")
        assert ". " not in problem
        assert remedy
        return said.removeprefix("overnight: ").strip()

    return refuse


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("trian",), "There is no command 'trian'. Did you mean train?"),
        (
            ("xyz",),
            "There is no command 'xyz'. Commands: prepare, train, probe, scale, evaluate, translate, recommend, "
            "generate, features, trace, classify, import, export, serve, report, bench, doctor, list.",
        ),
        (("train", "byte-ml"), "There is no recipe 'byte-ml'. Did you mean byte-lm?"),
        (
            ("train", "xyz"),
            "There is no recipe 'xyz'. Recipes: byte-lm, builtin, mnist-lstm, resnet, alexnet, word-lm, recommender, "
            "gnmt, bert, bert-classify, bert-squad (see: overnight list).",
        ),
        (("train", "runs/none"), "runs/none does not exist. Name a recipe (see: overnight list), a run or a run.json."),
        (
            ("train", "none", "--resume"),
            "none does not exist. Name a recipe (see: overnight list), a run or a run.json.",
        ),
    ],
)
def test_unknown_names(refused: Refused, argv: tuple[str, ...], said: str) -> None:
    assert refused(*argv) == said


def test_missing_corpus(refused: Refused, tmp_path: Path) -> None:
    said = refused("train", "byte-lm", "--data", "nowhere", "--out", "out")
    assert said.startswith("nowhere is not a prepared corpus (it has no manifest.json).")
    assert "overnight prepare" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.weight_decy=0.1", "Did you mean optimizer.weight_decay"),
        ("maxnorm=1", "'maxnorm' is not a setting of a run. Did you mean max_norm"),
        ("model.hiden_size=8", "Did you mean model.hidden_size"),
        ("zzz=1", "'zzz' is not a setting of a run. Valid names: recipe, model, task, data,"),
        ("max_norm", "--set max_norm is no setting. Write it as --set NAME=VALUE."),
        ("=1", "--set =1 is no setting. Write it as --set NAME=VALUE."),
        ("task.model=1", "task.model is not a setting: it follows from model. Set that instead."),
        ("data.lanes=4", "it follows from global_batch_size"),
        ("seed.x=1", "seed has no settings of its own. Set it with --set seed=value."),
        ("optimizer=3", "optimizer is a component."),
        ("optimizer=torch.optim.Nothing", "'torch.optim.Nothing' cannot be imported"),
        ("optimizer=torch.optim.LBFGS", "the trainer does not. Choose one whose step needs no closure"),
        ("optimizer=torch.nn.Linear", "The optimizer (torch.nn.Linear) does not accept its settings"),
        ("optimizer.lr=-1", "The optimizer (torch.optim.Adam) does not accept its settings: Invalid learning rate: -1"),
        ("precision=fp61", "precision='fp61' is not known. Choose one of auto, fp32, bf16, fp16."),
        ("log_every=0", "log_every=0 cannot work. It must be a whole number of at least 1."),
        ("steps=2.5", "steps=2.5 cannot work."),
        ("max_norm=-1", "max_norm=-1 cannot work. It must be a number above 0, or None for no clipping."),
        ("checkpoint_minutes=nan", "checkpoint_minutes='nan' cannot work."),
        ("minutes=3", "A run has one budget; given: steps=2, minutes=3. Set one of epochs, steps or minutes."),
        ("data.reset=sometimes", "reset='sometimes' is not known. Choose one of shard, document, never."),
        ("data.split=training", "'training' is not a split. Choose one of train, valid, test."),
        ("model.hidden_size=0", "hidden_size"),
        ("data.corpus=elsewhere", "elsewhere is not a prepared corpus"),
    ],
)
def test_bad_settings(refused: Refused, corpus: Path, setting: str, said: str) -> None:
    assert said in refused("train", "byte-lm", "--data", corpus, *TINY, "--out", "out", "--set", setting)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--lr=-1",), "A rate of -1 cannot work. Take --lr above 0"),
        (("--preset", "labtop"), "There is no preset 'labtop'. Did you mean laptop?"),
        (("--optimizer", "adamm"), "There is no optimizer 'adamm'. Did you mean adam"),
        (("--batch-size", "0"), "A batch of 0 cannot work. Take at least 1."),
        (("--batch-size", "6", "--micro-batch-size", "4"), "not divisible by 1 rank × micro-batch 4"),
        (("--micro-batch-size", "0"), "micro_batch_size=0 cannot work."),
        (("--minutes", "2"), "A run has one budget; given: steps=2, minutes=2.0."),
        (("--steps", "0"), "steps=0 cannot work. It must be a whole number of at least 1."),
        (("--warmup-steps=-5",), "--warmup-steps -5 cannot work. Take 0 for none, or more."),
        (("--checkpoint", "best"), "--checkpoint best is for a run that is resumed. Add --resume."),
        (("--resume",), "--resume goes on with a run as it was"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_bad_arguments(refused: Refused, corpus: Path, argv: tuple[str, ...], said: str) -> None:
    assert said in refused("train", "byte-lm", "--data", corpus, *TINY, "--out", "out", *argv)


def test_the_remedy_of_a_bad_micro_batch_works(refused: Refused, corpus: Path) -> None:
    argv = ("train", "byte-lm", "--data", corpus, *TINY, "--batch-size", "30", "--out", "out")
    assert refused(*argv, "--micro-batch-size", "4").endswith("Take --micro-batch-size 3.")
    assert main([*map(str, argv), "--micro-batch-size", "3", "--set", "evaluations=0"]) == 0


def test_a_corpus_too_short_for_its_lanes_names_the_largest_batch_that_fits(refused: Refused, corpus: Path) -> None:
    argv = ("train", "byte-lm", "--data", corpus, *TINY, "--out", "out", "--set", "evaluations=0", "--batch-size")
    said = refused(*argv, 1000)
    assert said.startswith("The corpus has 2,000 bytes, too few for 1,000 lanes of 8 bytes and one more.")
    assert said.endswith("The largest batch that fits is 222.")
    assert "The largest batch that fits is 222." in refused(*argv, 223)
    assert main([*map(str, argv), "222"]) == 0


def test_a_corpus_too_short_for_anything(refused: Refused, corpus: Path) -> None:
    said = refused("train", "byte-lm", "--data", corpus, *TINY, "--length", 5000, "--out", "out")
    assert said.endswith("Give more text, or a shorter sequence.")


def test_an_altered_shard(refused: Refused, corpus: Path) -> None:
    shard = corpus / "train" / "00000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2] + b"!\n")
    said = refused("train", "byte-lm", "--data", corpus, *TINY, "--out", "out")
    assert said == f"{shard} was altered after the manifest was written. Prepare the corpus again."
    shard.write_bytes(data[:-1])
    assert "has 1,999 bytes; by its manifest it has 2,000." in refused("train", "byte-lm", "--data", corpus, *TINY)


def test_an_out_folder_that_holds_another_run(refused: Refused, corpus: Path, run: Path) -> None:
    said = refused("train", "byte-lm", "--data", corpus, *TINY, "--out", run)
    assert said.startswith(f"{run} already holds a run.")
    assert f"overnight train {run} --resume" in said


def test_an_out_folder_that_holds_other_things(refused: Refused, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    for out in ("thesis", "thesis/chapter.txt"):
        said = refused("train", "byte-lm", "--data", corpus, *TINY, "--out", out)
        assert said.endswith("Choose another --out.")


def test_a_run_without_resume(refused: Refused, run: Path) -> None:
    said = refused("train", run)
    assert said.startswith(f"{run} is a run folder.")
    assert f"overnight train {run} --resume" in said
    assert f"overnight train {run / 'run.json'}" in said
    assert refused("train", run, "--resume", "--out", "out").endswith("Leave out --out.")
    assert f"overnight train {run} --resume" in refused("train", run / "run.json", "--resume")
    assert "is not a run folder" in refused("train", run.parent / "corpus", "--resume")


def test_resuming_from_a_checkpoint_that_is_not_there(refused: Refused, run: Path) -> None:
    assert "77" in refused("train", run, "--resume", "--checkpoint", "77", "--set", "steps=4")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other/1"}', '{"format": "overnight-run/1"}'])
def test_a_damaged_run_json(refused: Refused, run: Path, content: str) -> None:
    (run / "run.json").write_text(content)
    for argv in (("train", run / "run.json", "--out", "out"), ("train", run, "--resume"), ("generate", run)):
        assert str(run / "run.json") in refused(*argv)


@pytest.mark.parametrize("part", [{}, {"call": "overnight.models.byte_lm.ByteLM"}])
def test_a_run_json_with_half_a_model(refused: Refused, run: Path, part: object) -> None:
    content = json.loads((run / "run.json").read_text())
    content["run"]["model"] = part
    (run / "run.json").write_text(json.dumps(content))
    assert "This run.json is not whole" in refused("train", run / "run.json", "--out", "out")


def test_a_checkpoint_of_another_architecture(refused: Refused, run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    content["run"]["model"]["kwargs"]["hidden_size"] = 16
    (run / "run.json").write_text(json.dumps(content))
    for command in ("generate", "evaluate"):
        assert refused(command, run, "--device", "cpu") == (
            f"Checkpoint {run / 'checkpoints' / '00000002'} is of another architecture: "
            "layers.0.gates.bias is (32,) there and (64,) in this model. "
            "Use the settings that the checkpoint was trained with (its run.json has them)."
        )


@pytest.mark.parametrize(
    "argv",
    [
        ("--precision", "fp61"),
        ("--schedule", "linnear"),
        ("--batch-size", "many"),
        ("--no-such-option", "1"),
    ],
)
def test_what_the_parser_refuses(
    corpus: Path, tmp_path: Path, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["train", "byte-lm", "--data", str(corpus), "--out", str(tmp_path / "out"), *argv])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert argv[0] in said
    assert "Traceback" not in said
    assert snapshot(tmp_path) == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    def process(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "overnight", *argv]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)

    plain, debug = process("train", "byte-ml"), process("train", "byte-ml", "--debug")
    assert plain.returncode == 2
    assert plain.stderr == "overnight: There is no recipe 'byte-ml'. Did you mean byte-lm?\n"
    assert debug.returncode == 1
    assert debug.stderr.startswith("Traceback (most recent call last):")
    assert "There is no recipe 'byte-ml'. Did you mean byte-lm?" in debug.stderr
