"""One update: sums and counts, accumulation, ranks, and steps that are not finite."""

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from train.launching import lines
from train.on_ranks import on_ranks
from train.toys import toy
from train.work import count_reductions, train_toy

from overnight.errors import ElsewhereError, UserError
from overnight.train.checkpoint import load_checkpoint
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(quiet=True)


def last(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer state and carry of the last checkpoint."""
    found = load_checkpoint(sorted((folder / "checkpoints").glob("0*"))[-1])
    return {**found.model, **found.optimizer, **found.carry}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=tolerance, atol=tolerance), name


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "run"
    train(toy(), folder, QUIET)
    return folder


# In float64 only the order of the sums differs: a few units in the last place a step.
TOLERANCE = 1e-13


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_is_the_whole_batch(one_process: Path, tmp_path: Path, micro: int) -> None:
    train(toy(micro_batch_size=micro), tmp_path / "run", QUIET)
    close(last(tmp_path / "run"), last(one_process), TOLERANCE)
    for ours, theirs in zip(
        lines(tmp_path / "run" / "metrics.jsonl"), lines(one_process / "metrics.jsonl"), strict=True
    ):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=TOLERANCE)
        assert ours["tokens"] == theirs["tokens"]


@pytest.mark.parametrize(("ranks", "micro"), [(2, 4), (2, 1), (4, 2)])
def test_ranks_with_uneven_counts_are_one_process(one_process: Path, tmp_path: Path, ranks: int, micro: int) -> None:
    """Lanes count 1 to 4 targets, so ranks and micro-batches differ in theirs."""
    ended = on_ranks(train_toy, tmp_path / "out", ranks, tmp_path / "run", {"micro_batch_size": micro})
    assert {summary["tokens"] for summary in ended} == {8 * (1 + 2 + 3 + 4 + 1 + 2 + 3 + 4)}
    close(last(tmp_path / "run"), last(one_process), TOLERANCE)
    ours, theirs = (lines(folder / "metrics.jsonl") for folder in (tmp_path / "run", one_process))
    assert [line["step"] for line in ours] == list(range(1, 9))
    assert all(math.isclose(a["loss"], b["loss"], rel_tol=TOLERANCE) for a, b in zip(ours, theirs, strict=True))
    assert all(math.isclose(a["grad_norm"], b["grad_norm"], rel_tol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_step_communicates_its_gradient_once(tmp_path: Path) -> None:
    """no_sync covers the forward too: without it, DDP would reduce at every micro-batch."""
    for found in on_ranks(count_reductions, tmp_path, 2, 3):
        assert found == [1, 2, 3]


def test_the_first_update_is_the_gradient_of_the_mean() -> None:
    run = toy(steps=1, optimizer__momentum=0.0)
    torch.manual_seed(run.seed)
    model = run.model()
    batch = run.data(lanes=8, seed=0).at(0, 0, 8)
    out = model(batch.x, torch.zeros(8, 3, dtype=torch.float64))
    (((out - 1.0).square() * batch.weight).sum() / batch.weight.sum()).backward()
    expected = {name: p - 0.05 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    trained = weights_after(run)
    assert expected.keys() == trained.keys()
    close(trained, {name: tensor.detach() for name, tensor in expected.items()}, TOLERANCE)


def weights_after(run: Run) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        train(run, Path(folder) / "run", QUIET)
        return dict(load_checkpoint(Path(folder) / "run" / "checkpoints" / f"{run.steps:08d}").model)


def test_clipping_is_of_the_whole_gradient(tmp_path: Path) -> None:
    train(toy(max_norm=0.5, steps=3), tmp_path / "run", QUIET)
    read = lines(tmp_path / "run" / "metrics.jsonl")
    assert read[0]["grad_norm"] > 0.5
    assert [line["clipped"] for line in read] == [float(line["grad_norm"] > 0.5) for line in read]
    before, after = (weights_after(toy(max_norm=norm, steps=1)) for norm in (1e9, 0.5))
    start = weights_after(toy(max_norm=0.5, steps=1, optimizer__lr=0.0))
    moved = math.sqrt(sum(float((after[n] - start[n]).square().sum()) for n in start))
    assert math.isclose(moved, 0.05 * 0.5, rel_tol=1e-5)  # torch adds 1e-6 to the norm it divides by
    whole = math.sqrt(sum(float((before[n] - start[n]).square().sum()) for n in start))
    assert math.isclose(whole, 0.05 * read[0]["grad_norm"], rel_tol=1e-9)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, kind: str) -> None:
    train(toy(data__bad=((3, kind),), checkpoint_steps=1, keep_last=99), tmp_path / "run", QUIET)
    read = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["skipped"] for line in read] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [line["loss"] is None for line in read] == [False] * 3 + [True] + [False] * 4
    # linear decay over 8 steps: the step after the skipped one has the rate that was not used
    factors = [line["lr"] / 0.05 for line in read]
    assert factors == pytest.approx([1, 7 / 8, 6 / 8, 5 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8])
    folder = tmp_path / "run" / "checkpoints"
    before, after = (load_checkpoint(folder / f"{step:08d}") for step in (3, 4))
    for group in ("model", "optimizer"):
        for name, tensor in getattr(before, group).items():
            assert torch.equal(tensor, getattr(after, group)[name])
    assert (before.state["applied"], after.state["applied"]) == (24, 24)
    assert (after.state["step"], after.state["skipped"], after.state["skipped_in_a_row"]) == (4, 1, 1)
    lanes = torch.isfinite(after.carry["h"]).all(1)
    assert lanes.all()
    assert (after.carry["h"][1] == 0).all() == (kind == "loss")
    assert (after.carry["h"][[0, 2, 3, 4, 5, 6, 7]] != 0).all()
    ended = load_checkpoint(folder / "00000008").state
    assert (ended["applied"], ended["skipped"], ended["skipped_in_a_row"]) == (56, 1, 0)


def test_one_bad_rank_makes_all_skip(tmp_path: Path) -> None:
    """Lane 1, where the loss is not a number, belongs to rank 0; the others' losses are finite."""
    settings = {"data__bad": ((3, "loss"),)}
    on_ranks(train_toy, tmp_path / "out", 2, tmp_path / "two", settings)
    train(toy(**settings), tmp_path / "one", QUIET)
    close(last(tmp_path / "two"), last(tmp_path / "one"), TOLERANCE)
    assert [line["skipped"] for line in lines(tmp_path / "two" / "metrics.jsonl")] == [0, 0, 0, 1, 1, 1, 1, 1]


def test_too_many_in_a_row_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tuple((step, "loss") for step in (2, 4, 5, 6))
    with pytest.raises(UserError, match=r"3 steps in a row .* \(step 7\)\. Try a lower rate"):
        train(toy(data__bad=bad, max_skipped=3, checkpoint_steps=2), tmp_path / "run")
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["state"], summary["step"], summary["skipped"]) == ("failed", 7, 4)
    assert "3 steps in a row" in summary["reason"]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["00000004", "00000006"]
    train(toy(data__bad=bad[:3], max_skipped=3), tmp_path / "other")
    assert "skipped 3" in capsys.readouterr().err


def test_too_many_in_a_row_stop_all_ranks(tmp_path: Path) -> None:
    bad = tuple((step, "loss") for step in (1, 2))
    first, second = on_ranks(train_toy, tmp_path / "out", 2, tmp_path / "run", {"data__bad": bad, "max_skipped": 2})
    assert type(first) is UserError
    assert type(second) is ElsewhereError
    assert str(first) == str(second)
    assert read_json(tmp_path / "run" / "summary.json")["state"] == "failed"


def read_json(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found
