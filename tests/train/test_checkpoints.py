"""Checkpoints: whole or named, the right ones kept, and a clear word for those of another model."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch
from train.launching import lines, same_end, tiny
from train.toys import ForgetfulSGD, toy

from overnight.errors import UserError
from overnight.train.checkpoint import (
    best_step,
    choose_checkpoint,
    flatten_optimizer,
    list_checkpoints,
    load_checkpoint,
    load_model,
    unflatten_optimizer,
)
from overnight.train.folder import clean_up, remove_folder, write_folder
from overnight.train.launch import Options, train
from overnight.train.loop import Loop
from overnight.train.run import Run

QUIET = Options(quiet=True)
RESUME = Options(quiet=True, resume=True)


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with checkpoints at 3, 6, 9 and 12."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(settings(corpus), folder, QUIET)
    return folder


def settings(corpus: Path, **changes: object) -> Run:
    return tiny(corpus, **{"checkpoint_steps": 3, "keep_last": 9, "evaluations": 1, **changes})


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_what_a_checkpoint_holds(finished: Path) -> None:
    assert [int(path.name) for path in list_checkpoints(finished / "checkpoints")] == [3, 6, 9, 12]
    found = load_checkpoint(finished / "checkpoints" / "00000009")
    assert set(found.carry) == {"h", "c"}
    assert found.carry["h"].shape == (4, 1, 16)
    assert found.rng["cpu"].shape[0] == 1
    assert {name.rpartition(".")[2] for name in found.optimizer} == {"step", "exp_avg", "exp_avg_sq"}
    assert (found.state["step"], found.state["applied"], found.state["tokens"]) == (9, 36, 9 * 4 * 8)
    assert found.state["optimizer_class"] == "torch.optim.Adam"


def test_files_may_be_read_by_whom_the_umask_says(corpus: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(settings(corpus, steps=1), tmp_path / "run", QUIET)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {0o640}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "carry.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(
    corpus: Path, run_folder: Path, name: str, damage: str
) -> None:
    path = run_folder / "checkpoints" / "00000012" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    records = (run_folder / "metrics.jsonl").read_bytes()
    what = "is missing" if damage == "missing" else "does not match its digest"
    message = f"00000012 is damaged: {name} {what}. Use the one before it: --checkpoint 9."
    with pytest.raises(UserError, match=re.escape(message)):
        train(settings(corpus), run_folder, RESUME)
    assert (run_folder / "metrics.jsonl").read_bytes() == records
    assert (run_folder / "summary.json").exists()


def test_damage_to_the_digests(corpus: Path, run_folder: Path) -> None:
    for content in ("", "[]", '{"model.safetensors": 3}'):
        (run_folder / "checkpoints" / "00000012" / "digest.json").write_text(content)
        with pytest.raises(UserError, match=r"00000012 is damaged: .* --checkpoint 9"):
            train(settings(corpus), run_folder, RESUME)
    (run_folder / "checkpoints" / "00000003" / "digest.json").unlink()
    with pytest.raises(UserError, match=r"00000003 is damaged: .* There is none before it"):
        load_checkpoint(run_folder / "checkpoints" / "00000003")


def test_going_on_from_the_one_before(corpus: Path, finished: Path, run_folder: Path) -> None:
    (run_folder / "checkpoints" / "00000012" / "model.safetensors").write_bytes(b"")
    train(settings(corpus), run_folder, Options(quiet=True, resume=True, checkpoint="9"))
    same_end(run_folder, finished)
    assert json.loads((run_folder / "run.json").read_text())["resumed_at"] == [9]


def test_going_on_from_an_early_one_makes_the_later_ones_anew(
    corpus: Path, finished: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Loop.__call__

    def spied(loop: Loop) -> str:
        folder = run_folder / "checkpoints"
        seen.append(([int(path.name) for path in list_checkpoints(folder)], best_step(folder)))
        return original(loop)

    monkeypatch.setattr(Loop, "__call__", spied)
    train(settings(corpus), run_folder, Options(quiet=True, resume=True, checkpoint="6"))
    assert seen == [([3, 6], None)]
    same_end(run_folder, finished)


def test_resume_of_a_finished_run_changes_nothing(corpus: Path, finished: Path, run_folder: Path) -> None:
    summary = train(settings(corpus), run_folder, RESUME)
    assert summary["state"] == "finished"
    same_end(run_folder, finished)


def test_a_checkpoint_of_another_model(corpus: Path, run_folder: Path) -> None:
    before = (run_folder / "run.json").read_bytes()
    with pytest.raises(
        UserError,
        match=r"00000012 is of another architecture: layers\.0\S+ is \(64,\) there and \(96,\) in this.*run\.json",
    ):
        train(settings(corpus, model__hidden_size=24), run_folder, RESUME)
    with pytest.raises(UserError, match=r"another architecture: layers\.1\.\S+ is absent there and \(64,\) in this"):
        train(settings(corpus, model__layers=2), run_folder, RESUME)
    with pytest.raises(UserError, match=r"holds the state of torch\.optim\.Adam; this run has torch\.optim\.SGD"):
        train(settings(corpus, optimizer="torch.optim.SGD"), run_folder, RESUME)
    with pytest.raises(UserError, match=r"carries the state of 4 lanes; this run has 8\. Resume with the batch size"):
        train(settings(corpus, global_batch_size=8), run_folder, RESUME)
    assert (run_folder / "run.json").read_bytes() == before


def test_settings_of_a_resumed_run_hold(corpus: Path, run_folder: Path) -> None:
    """What the run says goes before what the checkpoint has; the peak rate is not the rate that was reached."""
    run = settings(corpus, steps=14, optimizer__weight_decay=0.5, optimizer__lr=0.01)
    train(run, run_folder, RESUME)
    (group,) = load_checkpoint(run_folder / "checkpoints" / "00000014").state["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.5
    read = {line["step"]: line["lr"] for line in lines(run_folder / "metrics.jsonl")}
    # 4 steps of warm-up; step 13 decays from 12 steps done of 14
    assert read[13] == pytest.approx(0.01 * (1 - (12 - 4) / (14 - 4)))
    assert json.loads((run_folder / "run.json").read_text())["run"]["steps"] == 14


def test_the_last_and_the_best_are_kept(corpus: Path, tmp_path: Path) -> None:
    values = {step: abs(step - 4) + 1.0 for step in range(1, 13)}  # the best is step 4
    out = tmp_path / "run"
    run = tiny(corpus, evaluations=12, keep_last=2, evaluate="train.scripted.scripted_record", sample=None)
    run = run.with_setting(f"evaluate.values={tuple(values.items())}")
    train(run, out, QUIET)
    folder = out / "checkpoints"
    assert [int(path.name) for path in list_checkpoints(folder)] == [4, 11, 12]
    assert json.loads((folder / "best.json").read_text()) == {"step": 4, "bits_per_byte": 1.0}
    assert choose_checkpoint(out, "best").name == "00000004"
    assert choose_checkpoint(out, "last").name == "00000012"
    assert choose_checkpoint(out, "11").name == "00000011"
    with pytest.raises(UserError, match=r"no checkpoint '7'. Choose best, last or one of 4, 11, 12"):
        choose_checkpoint(out, "7")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"] == {"step": 4, "bits_per_byte": 1.0}


def test_an_evaluation_that_is_no_number_is_never_the_best(corpus: Path, tmp_path: Path) -> None:
    run = tiny(corpus, evaluations=3, evaluate="train.scripted.scripted_record", sample=None)
    run = run.with_setting("evaluate.values=((4, 'nan'), (8, 3.0), (12, 'nan'))")
    summary = train(run, tmp_path / "run", QUIET)
    assert summary["best"] == {"step": 8, "bits_per_byte": 3.0}
    assert summary["final"]["bits_per_byte"] is None
    assert [line["bits_per_byte"] for line in lines(tmp_path / "run" / "eval.jsonl")] == [None, 3.0, None]
    assert "NaN" not in (tmp_path / "run" / "summary.json").read_text()


def test_a_best_that_is_gone(corpus: Path, run_folder: Path) -> None:
    folder = run_folder / "checkpoints"
    (folder / "best.json").write_text('{"step": 5, "bits_per_byte": 1.0}')
    assert choose_checkpoint(run_folder, "best").name == "00000012"
    assert load_model(run_folder).step == 12
    for content in ("", "[]", "{}", '{"step": "x"}'):
        (folder / "best.json").write_text(content)
        assert choose_checkpoint(run_folder, "best").name == "00000012"
    train(settings(corpus), run_folder, RESUME)
    assert best_step(folder) == 12


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):
        (tmp_path / f"{step:08d}").mkdir()
    (tmp_path / ".00000009.1").mkdir()
    (tmp_path / "notes").mkdir()
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [7, 99_999_999, 100_000_000]


def test_what_was_killed_between_two_renames_comes_back(tmp_path: Path) -> None:
    write_folder(tmp_path / "00000005", lambda folder: (folder / "a").write_text("old"))
    (tmp_path / "00000005").rename(tmp_path / ".00000005.replaced")
    write_folder(tmp_path / ".00000005.77", lambda folder: (folder / "a").write_text("half"))
    clean_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]
    assert (tmp_path / "00000005" / "a").read_text() == "old"
    write_folder(tmp_path / "00000005", lambda folder: (folder / "a").write_text("new"))
    assert (tmp_path / "00000005" / "a").read_text() == "new"
    remove_folder(tmp_path / "00000005")
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_comes_back_as_it_was() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    for make in (torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam):
        first = make([{"params": [weight], "lr": 0.5}, {"params": [torch.nn.Parameter(torch.ones(1))]}], lr=0.1)
        weight.grad = torch.ones_like(weight)
        first.step()
        tensors, plain = flatten_optimizer(first)
        read = unflatten_optimizer(tensors, json.loads(json.dumps(plain)))
        expected = first.state_dict()
        assert read["state"].keys() == expected["state"].keys()
        for index, entry in expected["state"].items():
            assert read["state"][index].keys() == entry.keys()
            for key, value in entry.items():
                same = torch.equal(read["state"][index][key], value) if torch.is_tensor(value) else None
                assert same if same is not None else read["state"][index][key] == value
        second = make([{"params": [weight], "lr": 0.5}, {"params": [torch.nn.Parameter(torch.ones(1))]}], lr=0.1)
        second.load_state_dict(read)
        assert second.state_dict()["param_groups"] == expected["param_groups"]


def test_an_optimizer_that_no_checkpoint_can_hold_is_refused_at_the_first_step(tmp_path: Path) -> None:
    run = toy(optimizer=f"train.toys.{ForgetfulSGD.__name__}")
    with pytest.raises(UserError, match="ForgetfulSGD keeps 'memory' as a set"):
        train(run, tmp_path / "run", QUIET)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 1
