"""`overnight evaluate` and `overnight generate` on a run folder."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.corpus import write_corpus

from overnight.cli import evaluate, generate
from overnight.cli.generate import RULE, _show
from overnight.data.corpus import Corpus
from overnight.errors import UserError
from overnight.evaluate.heldout import evaluate_heldout
from overnight.models.byte_lm import ByteLM
from overnight.train.checkpoint import Checkpoint, mark_best, save_checkpoint

SETTINGS = {"hidden_size": 16, "embedding_size": 5}


def model_of(step: int) -> ByteLM:
    torch.manual_seed(step)
    return ByteLM(**SETTINGS)  # type: ignore[arg-type]


def write_run(folder: Path, corpus: Path | None, model: dict[str, Any] | None = None) -> Path:
    """A run folder with checkpoints 10 (the best) and 20."""
    kwargs = {"corpus": str(corpus), "reset": "document"} if corpus else {}
    call = model or {"call": "overnight.models.byte_lm.ByteLM", "kwargs": SETTINGS}
    data = {"call": "overnight.data.lanes.corpus_lanes", "kwargs": kwargs}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": "overnight-run/1", "run": {"model": call, "data": data}}))
    for step in (10, 20):
        state = {"step": step, "samples": 0}
        save_checkpoint(folder / "checkpoints", Checkpoint(model_of(step).state_dict(), {}, {}, {}, state), keep_last=9)
    mark_best(folder / "checkpoints", {"step": 10, "bits_per_byte": 2.0})
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [bytes([97 + index % 7]) * 40 + b"\n" for index in range(60)]
    return write_corpus(tmp_path / "corpus", train=[documents], valid=[documents[:20], documents[20:40]])


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> Path:
    return write_run(tmp_path / "run", corpus)


def record(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert evaluate.main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has less than one block; this gives it an interval."""
    monkeypatch.setattr("overnight.evaluate.heldout.BLOCK_BYTES", 41)


@pytest.mark.usefixtures("short_blocks")
def test_evaluate_gives_the_exact_figure(run: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, str(run), "--device", "cpu")
    expected = evaluate_heldout(model_of(10), Corpus(corpus).split("valid"), reset="document")
    assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert (found["step"], found["split"], found["bytes"]) == (10, "valid", 40 * 41)
    assert found["low"] < found["bits_per_byte"] < found["high"]


def test_evaluate_options(run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(capsys, str(run), "--checkpoint", "last")["step"] == 20
    assert record(capsys, str(run), "--checkpoint", "10")["step"] == 10
    assert record(capsys, str(run), "--split", "train", "--lanes", "1")["bytes"] == 60 * 41
    other = write_corpus(tmp_path / "other", valid=[[b"other text"]])
    assert record(capsys, str(run), "--data", str(other))["bytes"] == 10
    names = [item["name"] for item in record(capsys, str(run), "--baselines")["baselines"]]
    assert names == ["order-0 entropy", "gzip -9", "xz -9e"]
    assert record(capsys, str(run), "--precision", "bf16")["precision"] == "bf16"


@pytest.mark.usefixtures("short_blocks")
def test_evaluate_prints_sentences(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(run), "--baselines"]) == 0
    out = capsys.readouterr().out
    assert "valid: 7." in out or "valid: 8." in out
    assert "95 % interval" in out
    assert "1,640 bytes, all of the split" in out
    assert "gzip -9: 0." in out
    single = write_corpus(tmp_path / "single", valid=[[b"few"]])
    assert evaluate.main([str(run), "--data", str(single), "--lanes", "1"]) == 0
    assert "too few bytes for an interval" in capsys.readouterr().out


def test_evaluate_bad_input(run: Path, corpus: Path, tmp_path: Path) -> None:
    for argv, problem in (
        ([str(tmp_path / "absent")], "not a run folder"),
        ([str(corpus)], "not a run folder"),
        ([str(run), "--checkpoint", "15"], "no checkpoint '15'.*10, 20"),
        ([str(run), "--split", "test"], "Split test of .* is empty"),
        ([str(run), "--data", str(tmp_path)], "not a prepared corpus"),
        ([str(run), "--lanes", "0"], "0 lanes"),
        ([str(write_run(tmp_path / "no-corpus", None))], "does not say which corpus"),
    ):
        with pytest.raises(UserError, match=problem):
            evaluate.main(argv)


def test_evaluate_names_an_altered_shard(run: Path, corpus: Path) -> None:
    shard = corpus / "valid" / "00001.bin"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"00001\.bin was altered"):
        evaluate.main([str(run)])


@pytest.mark.parametrize("command", [evaluate, generate])
def test_models_that_do_not_fit(command: Any, run: Path, corpus: Path, tmp_path: Path) -> None:
    wider = {"call": "overnight.models.byte_lm.ByteLM", "kwargs": {"hidden_size": 17}}
    with pytest.raises(UserError, match="another architecture"):
        command.main([str(write_run(tmp_path / "wider", corpus, wider))])
    weights = next((run / "checkpoints").glob("*10/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        command.main([str(run)])


def test_only_byte_models_are_used(tmp_path: Path, corpus: Path) -> None:
    folder = write_run(tmp_path / "linear", corpus)
    linear = torch.nn.Linear(3, 4)
    call = {"call": "torch.nn.Linear", "kwargs": {"in_features": 3, "out_features": 4}}
    settings = json.loads((folder / "run.json").read_text())
    settings["run"]["model"] = call
    (folder / "run.json").write_text(json.dumps(settings))
    checkpoint = Checkpoint(linear.state_dict(), {}, {}, {}, {"step": 30, "samples": 0})
    save_checkpoint(folder / "checkpoints", checkpoint, keep_last=1)
    with pytest.raises(UserError, match="holds a Linear, not a byte language model"):
        generate.main([str(folder), "--checkpoint", "30"])


def test_generate_continues_the_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(run), "--prompt", "naïve ", "--length", "50", "--temperature", "0"]
    assert generate.main(argv) == 0
    first = capsys.readouterr().out
    assert first.startswith("naïve ")
    assert first.endswith("\n")
    assert generate.main(argv) == 0
    assert capsys.readouterr().out == first
    assert generate.main([*argv, "--checkpoint", "last"]) == 0
    assert capsys.readouterr().out != first


def test_generate_samples_stand_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([str(run), "--prompt", "Q: ", "--samples", "3", "--length", "20", "--top-k", "9"]) == 0
    texts = capsys.readouterr().out.split(f"{RULE}\n")
    assert len(texts) == len(set(texts)) == 3
    assert all(text.startswith("Q: ") for text in texts)


def test_generate_bad_input(run: Path, tmp_path: Path) -> None:
    for argv, problem in (
        ([str(tmp_path)], "not a run folder"),
        ([str(run), "--checkpoint", "worst"], "no checkpoint 'worst'"),
        ([str(run), "--temperature", "-1"], "temperature=-1.0"),
        ([str(run), "--top-k", "0"], "top_k=0"),
        ([str(run), "--top-p", "1.5"], "top_p=1.5"),
        ([str(run), "--length", "0"], "length=0"),
        ([str(run), "--samples", "0"], "--samples 0"),
        ([str(run), "--threads", "0"], "--threads 0"),
    ):
        with pytest.raises(UserError, match=problem):
            generate.main(argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device whose absence is tested")
@pytest.mark.parametrize("command", [evaluate, generate])
def test_absent_device(command: Any, run: Path) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        command.main([str(run), "--device", "cuda"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_control_characters() -> None:
    def steps() -> Iterator[list[bytes]]:
        for value in b"a\x1b[2J\r\n\tb":
            yield [bytes((value,))]

    shown, kept = Terminal(), io.StringIO()
    _show(b"", steps(), 1, shown)
    assert shown.getvalue() == "a�[2J�\n\tb\n"
    _show(b"", steps(), 1, kept)
    assert kept.getvalue() == "a\x1b[2J\r\n\tb\n"


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send")
def test_ctrl_c_ends_generation_quietly(run: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "overnight", "generate", str(run), "--length", "100000000", "--prompt", "Once"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    shown = process.stdout.read(100)  # text comes before the end
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.startswith(b"Once")
    assert rest.endswith(b"\n")
    assert errors == b""


@pytest.mark.parametrize("name", ["evaluate", "generate"])
def test_help_does_not_load_torch(name: str) -> None:
    code = (
        f"import sys, overnight.cli.{name} as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint best|last|STEP" in done.stdout
