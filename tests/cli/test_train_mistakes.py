"""A user's mistake: exit code 2, one sentence that names it, the remedy, no traceback, and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from train.launching import arguments

from overnight.cli import main
from overnight.errors import UserError

Fail = Callable[..., str]


@pytest.fixture
def fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Fail:
    """Run a command that must fail; returns what it said."""

    def run(*words: object, out: Path | None = tmp_path / "run") -> str:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        said = [line for line in printed.err.splitlines() if line.startswith("overnight: ")]
        assert len(said) == 1
        assert printed.err.endswith(said[0] + "\n")
        assert "Traceback" not in printed.err
        sentence = said[0].removeprefix("overnight: ")
        if out is not None:
            assert not out.exists()
        return sentence

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(arguments(corpus, out, steps=2)) == 0
    return out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["byte_lm"], "There is no recipe 'byte_lm'. Did you mean byte-lm?"),
        (["gpt"], "There is no recipe 'gpt'. Recipes: byte-lm, builtin (see: overnight list)."),
        (["runs/lost"], "runs/lost does not exist. Name a recipe (see: overnight list), a run or a run.json."),
        (["lost", "--resume"], "lost does not exist. Name a recipe"),
        (["builtin", "--checkpoint", "7"], "--checkpoint 7 is for a run that is resumed. Add --resume."),
    ],
)
def test_what_to_train(fail: Fail, words: list[str], expected: str) -> None:
    assert fail("train", *words).startswith(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--preset labtop", "There is no preset 'labtop'. Did you mean laptop?"),
        ("--preset huge", "There is no preset 'huge'. Choose one of laptop, ten-minutes, 512, 1024"),
        ("--optimizer adm", "There is no optimizer 'adm'. Did you mean adam? Or give an import path such as"),
        ("--optimizer torch.optim.Lion9", "'torch.optim.Lion9' cannot be imported: "),
        ("--optimizer torch.nn.Linear", "The optimizer (torch.nn.Linear) does not accept its settings: "),
        ("--optimizer torch.optim.LBFGS", "torch.optim.LBFGS calls the loss itself, several times a step;"),
        ("--steps 3 --epochs 1", "A run has one budget; given: epochs=1.0, steps=3. Set one of"),
        ("--steps 0", "steps=0 cannot work. It must be a whole number of at least 1."),
        ("--minutes -1", "minutes=-1.0 cannot work. It must be a number above 0."),
        ("--epochs nan", "epochs=nan cannot work. It must be a number above 0."),
        ("--batch-size 0", "A batch of 0 cannot work. Take at least 1."),
        ("--batch-size 4 --micro-batch-size 3", "A batch of 4 is not divisible by 1 rank"),
        (
            "--batch-size 1000",
            "The corpus has 9,792 bytes, too few for 1,000 lanes of 64 bytes",
        ),
        (
            "--batch-size 1 --length 10000",
            "The corpus has 9,792 bytes, too few for 1 lanes of 10,000 bytes",
        ),
        ("--lr -1", "The optimizer (torch.optim.Adam) does not accept its settings: Invalid learning rate: -1.0. See"),
        ("--max-norm -1", "max_norm=-1.0 cannot work. It must be a number above 0, or None for no clipping."),
        ("--seed -1", "seed=-1 cannot work. It must be a whole number of at least 0."),
        ("--device cuda", "device=cuda was asked for, but torch sees no CUDA device. Use --device cpu."),
        ("--device tpu", "'tpu' is not a device to train on. Choose auto, cpu or cuda."),
        ("--set max_nrom=1", "'max_nrom' is not a setting of a run. Did you mean max_norm"),
        ("--set zebra=1", "'zebra' is not a setting of a run. Valid names: recipe, model,"),
        (
            "--set optimizer.beta=1",
            "optimizer.beta is not a setting of torch.optim.Adam. Did you mean optimizer.betas",
        ),
        ("--set optimizer.qqq=1", "optimizer.qqq is not a setting of torch.optim.Adam. Valid names: "),
        ("--set model.hiden_size=1", "model.hiden_size is not a setting of overnight.models.byte_lm.ByteLM. Did you"),
        ("--set model.hidden_size=wide", "The model (overnight.models.byte_lm.ByteLM) does not accept its settings: "),
        ("--set model.hidden_size=-4", "A byte model cannot have hidden_size=-4. hidden_size must be at least 1."),
        ("--set model.init=best", "'best' is not a known initialisation. Choose one of"),
        ("--set model.embedding.size=4", "model.embedding has no settings of its own. Set it with"),
        ("--set data.lanes=3", "data.lanes is not a setting: it follows from global_batch_size. Set that instead."),
        ("--set data.reset=page", "reset='page' is not known. Choose one of shard, document, never."),
        ("--set data.split=dev", "'dev' is not a split. Choose one of train, valid, test."),
        ("--set schedule.warmup_samples=lots", "The schedule (overnight.schedule.linear) does not accept its settings"),
        ("--set schedule.horizon=3", "schedule.horizon is not a setting of overnight.schedule.linear. Did you mean"),
        ("--set precision=fp8", "precision='fp8' is not known. Choose one of auto, fp32, bf16, fp16."),
        ("--set max_norm", "--set max_norm is no setting. Write it as --set NAME=VALUE."),
        ("--set =3", "--set =3 is no setting. Write it as --set NAME=VALUE."),
        ("--set optimizer=3", "optimizer is a component. Set one of its arguments: --set optimizer.name=value."),
        ("--set optimizer=math.pi", "3.14159"),
        ("--set seed.part=3", "seed has no settings of its own. Set it with --set seed=value."),
        ("--set log_every=0", "log_every=0 cannot work. It must be a whole number of at least 1."),
        ("--set steps=2.5", "steps=2.5 cannot work. It must be a whole number of at least 1."),
        ("--set threads=many", "threads='many' cannot work. It must be a whole number of at least 1, or None for"),
        ("--set keep_last=True", "keep_last=True cannot work. It must be a whole number of at least 1."),
        ("--set evaluate.lanes=0 --steps 1 --set evaluations=0 --set max_norm={}", "max_norm='{}' cannot work."),
    ],
)
def test_settings(corpus: Path, tmp_path: Path, fail: Fail, words: str, expected: str) -> None:
    said = fail("train", "byte-lm", "--data", corpus, "--out", tmp_path / "run", *_with_budget(words.split()))
    assert said.startswith(expected), said


def _with_budget(words: list[str]) -> list[str]:
    return words if {"--steps", "--epochs", "--minutes"}.intersection(words) else [*words, "--steps", "2"]


def test_remedies_name_a_value_that_works(corpus: Path, tmp_path: Path, fail: Fail) -> None:
    base = ["train", "byte-lm", "--data", corpus, "--out", tmp_path / "run", "--steps", 1]
    small = ["--set", "model.hidden_size=8", "--set", "evaluations=0", "--set", "baselines=None"]
    said = fail(*base, "--batch-size", 12, "--micro-batch-size", 7)
    assert said == "A batch of 12 is not divisible by 1 rank × micro-batch 7. Take --micro-batch-size 6."
    said = fail(*base, "--length", 16, "--batch-size", 5000)
    largest = int(said.rpartition("The largest batch that fits is ")[2].rstrip("."))
    again = [*map(str, base), "--length", "16", "--batch-size", str(largest), *small]
    assert main(again) == 0
    shutil.rmtree(tmp_path / "run")
    fail(*base, "--length", 16, "--batch-size", largest + 1)


def test_corpora(corpus: Path, tmp_path: Path, fail: Fail) -> None:
    rest = ["--out", tmp_path / "run", "--steps", 2]
    said = fail("train", "byte-lm", "--data", tmp_path / "none", *rest)
    assert said.startswith(f"{tmp_path / 'none'} is not a prepared corpus (it has no manifest.json). Make one with:")
    text = tmp_path / "book.txt"
    text.write_text("text")
    assert "is not a prepared corpus" in fail("train", "byte-lm", "--data", text, *rest)
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    shard = copy / "train" / "00001.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + b"X")
    said = fail("train", "byte-lm", "--data", copy, *rest)
    assert said == f"{shard} was altered after the manifest was written. Prepare the corpus again."
    shard.write_bytes(data[:-1])
    assert fail("train", "byte-lm", "--data", copy, *rest).startswith(f"{shard} has ")
    shard.unlink()
    assert fail("train", "byte-lm", "--data", copy, *rest).startswith(f"{shard} is missing")
    (copy / "manifest.json").write_text('{"format": "overnight-corpus/9"}')
    assert "has format 'overnight-corpus/9'; this version reads" in fail("train", "byte-lm", "--data", copy, *rest)


def test_folders(corpus: Path, trained: Path, tmp_path: Path, fail: Fail) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("…")
    said = fail(*arguments(corpus, foreign), out=None)
    assert said == f"{foreign} is not empty and holds no run. Choose another --out."
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    said = fail(*arguments(corpus, trained), out=None)
    assert said.startswith(f"{trained} already holds a run. Go on with it (overnight train {trained} --resume) or")
    said = fail("train", trained, out=None)
    assert said == (
        f"{trained} is a run folder. Go on with it: overnight train {trained} --resume; "
        f"or run it again: overnight train {trained}/run.json."
    )
    assert fail("train", trained, "--resume", "--out", tmp_path / "x", out=None).startswith("--resume goes on in the")
    assert fail("train", trained, "--resume", "--checkpoint", "9", out=None).endswith(
        "Choose best, last or one of 1, 2."
    )
    assert fail("train", trained / "run.json", "--resume", out=None).startswith(f"{trained}/run.json is a file.")
    assert "--resume goes on with a run as it was" in fail(*arguments(corpus, trained), "--resume", out=None)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fail("train", empty, "--resume", out=None).startswith(f"{empty} is not a run folder (it has no run.json).")
    file = tmp_path / "file"
    file.write_text("")
    assert fail(*arguments(corpus, file), out=None) == f"{file} is a file. Choose another --out."
    assert fail(*arguments(corpus, file / "run"), out=None).startswith(f"{file / 'run'} cannot be made (")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "cannot be read: "),
        ("[]", "cannot be read: "),
        ('{"format": "other"}', "has format 'other'; this version reads 'overnight-run/1'. Use the one that wrote it."),
        ('{"format": "overnight-run/1"}', "does not hold a run. Restore it from a copy."),
        ('{"format": "overnight-run/1", "run": {}}', "is not whole: "),
        ('{"format": "overnight-run/1", "run": {"sped": 1}}', "'sped' is not a field of a run. Did you mean"),
        ('{"format": "overnight-run/1", "run": {"model": {"call": "torch.nn.Linear"}}}', "is not whole: 'kwargs'"),
        ('{"format": "overnight-run/1", "run": {"model": {"call": "os.system", "kwargs": {}}}}', "names 'os.system',"),
    ],
)
def test_a_run_json_that_is_none(tmp_path: Path, fail: Fail, content: str, expected: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    assert expected in fail("train", path, "--out", tmp_path / "run")


def test_a_run_that_another_process_writes(corpus: Path, trained: Path, fail: Fail) -> None:
    from overnight.train.host import hold

    with hold(trained):
        said = fail("train", trained, "--resume", out=None)
    assert said == f"{trained} is being written by another process. Wait for it to end, or stop it."


def test_another_corpus_under_the_same_name(corpus: Path, trained: Path, tmp_path: Path, fail: Fail) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "copy"))
    settings = json.loads((out / "run.json").read_text())
    settings["derived"]["corpus_digest"] = "0" * 64
    (out / "run.json").write_text(json.dumps(settings))
    said = fail("train", out, "--resume", "--set", "steps=3", out=None)
    assert said.startswith("The corpus has changed since this run was trained on it (digest 000000000000 then, ")


def test_debug_shows_the_traceback(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no preset 'huge'"):
        main(["train", "byte-lm", "--data", str(corpus), "--preset", "huge", "--out", str(tmp_path / "run"), "--debug"])


def test_unknown_arguments_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "byte-lm", "--data", "corpus", "--batchsize", "3"])
    assert ended.value.code == 2
    assert "--batch-size" in capfd.readouterr().err
