"""`overnight import` and `overnight export`, and what the other commands make of an imported run."""

import json
from pathlib import Path

import pytest
import torch
from exchange.making import arrays, reference_state, snapshot, write_arrays, write_run
from oracles.corpus import write_corpus

from overnight.cli import main
from overnight.train.checkpoint import Checkpoint, save_checkpoint


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(word) for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.removeprefix("overnight: ")


def test_an_imported_run_serves_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run = write_arrays(tmp_path / "published", arrays(6, 8)), tmp_path / "runs" / "imported"
    assert main(["import", str(source), "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("npy arrays: 8 units, embedding 6 wide, 4,512 parameters, digest ")
    assert f"overnight generate {run}" in said

    assert main(["generate", str(run), "--length", "20", "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out) > 1
    corpus = write_corpus(tmp_path / "corpus", valid=[[b"some text\n" * 20]])
    assert main(["evaluate", str(run), "--data", str(corpus), "--lanes", "1", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 200
    assert "does not say which corpus" in refused(capsys, "evaluate", run)
    assert main(["report", str(run)]) == 0
    capsys.readouterr()
    page = (run / "report" / "index.html").read_text()
    assert "Imported from published (npy arrays)." in page
    assert "Still running" not in page
    assert "not whole" in refused(capsys, "train", run, "--resume")


def test_run_json_says_where_the_weights_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(reference_state(6, 5, layers=2, weight_norm=True), tmp_path / "e1000.pt")
    assert main(["import", str(tmp_path / "e1000.pt"), "--out", str(tmp_path / "run")]) == 0
    assert "5 units in 2 layers" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["format"] == "overnight-run/1"
    assert record["derived"]["imported_from"] == "e1000.pt"
    assert record["derived"]["layout"] == "sentiment-discovery checkpoint"
    assert record["command"][:2] == ["overnight", "import"]
    kwargs = {"hidden_size": 5, "embedding_size": 6, "layers": 2, "weight_norm": True}
    assert record["run"]["model"]["kwargs"] == kwargs


@pytest.mark.parametrize(("to", "file"), [("safetensors", "model.safetensors"), ("npy", "the arrays")])
def test_export_says_how_it_was_checked(to: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", hidden_size=8, embedding_size=4)
    assert main(["export", str(run), "--to", to, "--out", str(tmp_path / "new" / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'new' / 'out'}: step 7, " in said
    assert f"{file}: run against the original, largest difference 0\n" in said
    assert main(["import", str(tmp_path / "new" / "out"), "--out", str(tmp_path / "again")]) == 0


def test_what_is_there_already_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source = write_run(tmp_path / "run", hidden_size=8), write_arrays(tmp_path / "in", arrays(3, 4))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = snapshot(tmp_path)
    for out in ("file", "empty", "run", "in"):
        expected = f"{tmp_path / out} already exists. Choose another --out.\n"
        assert refused(capsys, "import", source, "--out", tmp_path / out) == expected
        for to in ("safetensors", "npy", "onnx", "torch"):
            assert refused(capsys, "export", run, "--to", to, "--out", tmp_path / out) == expected
    assert (tmp_path / "file").read_text() == "mine"
    assert snapshot(tmp_path) == before


def test_sources_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run, published = write_run(tmp_path / "run", hidden_size=8), write_arrays(tmp_path / "in", arrays(3, 4))
    (tmp_path / "empty").mkdir()
    for source, expected in (
        (tmp_path / "absent", "absent does not exist."),
        (tmp_path / "empty", "empty is of no known layout. Known are 0.npy to 14.npy, model.safetensors"),
        (run, "run is a run folder already."),
        (published / "0.npy", f"0.npy is one file of several. Give the folder: {published}."),
    ):
        assert expected in refused(capsys, "import", source, "--out", out)
    assert not out.exists()


def test_runs_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = write_run(tmp_path / "run", hidden_size=8), tmp_path / "new" / "out"
    linear = write_run(tmp_path / "linear", hidden_size=8)
    record = json.loads((linear / "run.json").read_text())
    record["run"]["model"] = {"call": "torch.nn.Linear", "kwargs": {"in_features": 3, "out_features": 4}}
    (linear / "run.json").write_text(json.dumps(record))
    state = {"step": 9, "best": None}
    weights = torch.nn.Linear(3, 4).state_dict()
    save_checkpoint(linear / "checkpoints", Checkpoint(weights, {}, {}, {}, state), keep_last=1)
    for argv, expected in (
        ((tmp_path / "absent",), "is not a run folder"),
        ((linear,), "holds a Linear, not a byte language model"),
        ((run, "--checkpoint", "3"), "has no checkpoint '3'. Choose best, last or one of 7."),
    ):
        assert expected in refused(capsys, "export", *argv, "--to", "npy", "--out", out)
    file = next((run / "checkpoints").glob("*7/model.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert "is damaged" in refused(capsys, "export", run, "--to", "npy", "--out", out)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source = write_run(tmp_path / "run", hidden_size=8), write_arrays(tmp_path / "in", arrays(3, 4))
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    out = tmp_path / "file" / "out"
    assert f"{out} cannot be written: Not a directory." in refused(capsys, "import", source, "--out", out)
    assert "cannot be written" in refused(capsys, "export", run, "--to", "safetensors", "--out", out)
    assert snapshot(tmp_path) == before


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, source = write_run(tmp_path / "run", hidden_size=8), write_arrays(tmp_path / "in", arrays(3, 4))
    before = snapshot(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("overnight.exchange.hub.save_file", full)
    monkeypatch.setattr("overnight.exchange.importing.write_json", full)
    for argv in (
        ("export", run, "--to", "safetensors", "--out", tmp_path / "a" / "out"),
        ("import", source, "--out", tmp_path / "a" / "out"),
    ):
        assert "out cannot be written: No space left on device. Choose another --out." in refused(capsys, *argv)
    assert snapshot(tmp_path) == before


def test_the_parser_knows_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(tmp_path), "--to", "gguf", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "gguf" in capsys.readouterr().err
