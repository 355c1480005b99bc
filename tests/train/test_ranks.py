"""The same run on one rank and on two, and a run that goes on with another number of ranks."""

import math
from pathlib import Path

import pytest
import torch
from train.launching import arguments, lines, overnight, start
from train.on_ranks import on_ranks
from train.work import train_toy

from overnight.train.checkpoint import Checkpoint, load_checkpoint

STEPS = 16
SETTINGS = {"steps": STEPS, "checkpoint_steps": 4, "keep_last": 99, "data__reset": "document"}
# float32 sums in another order: 1e-7 a step, a little more after 16 steps of Adam
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Uninterrupted runs by ranks, with states reset at documents."""
    folder = tmp_path_factory.mktemp("whole")
    for ranks in (1, 2):
        overnight(arguments(corpus, folder / str(ranks), **SETTINGS), folder / "logs", ranks)
    return {ranks: folder / str(ranks) for ranks in (1, 2)}


def alike(run: Path, other: Path) -> None:
    """The same losses step by step, and the same weights and states at every checkpoint, but for rounding."""
    ours, theirs = (lines(folder / "metrics.jsonl") for folder in (run, other))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "lr"):
        pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
        assert all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs), pairs
    for step in range(4, STEPS + 1, 4):
        one, two = checkpoint(run, step), checkpoint(other, step)
        for group in ("model", "carry"):
            mine, its = getattr(one, group), getattr(two, group)
            assert mine.keys() == its.keys()
            for name, tensor in mine.items():
                assert torch.allclose(tensor, its[name], rtol=TOLERANCE, atol=TOLERANCE), (step, name)


def checkpoint(run: Path, step: int) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / f"{step:08d}")


def test_two_ranks_are_one(whole: dict[int, Path]) -> None:
    alike(whole[2], whole[1])
    assert [line["tokens"] for line in lines(whole[2] / "metrics.jsonl")] == [
        line["tokens"] for line in lines(whole[1] / "metrics.jsonl")
    ]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resumed_on_another_number_of_ranks(
    corpus: Path, whole: dict[int, Path], tmp_path: Path, before: int, after: int
) -> None:
    out = tmp_path / "run"
    running = start(arguments(corpus, out, **SETTINGS), tmp_path / "logs", before)
    running.until(lambda: (out / "checkpoints" / "00000008").exists())
    running.kill()
    overnight(["train", str(out), "--resume"], tmp_path / "logs", after)
    alike(out, whole[1])
    carried = checkpoint(out, STEPS)
    assert carried.carry["h"].shape[0] == 4
    assert carried.rng["cpu"].shape[0] == after
    assert carried.state["world_size"] == after
    assert f"{after} rank" in (out / "run.json").read_text()


def test_every_lane_has_a_state_of_its_own(whole: dict[int, Path]) -> None:
    """Otherwise lanes in the wrong place would not be seen."""
    for name, tensor in checkpoint(whole[1], STEPS).carry.items():
        for lane in range(1, 4):
            assert not torch.allclose(tensor[0], tensor[lane], atol=100 * TOLERANCE), name


def test_a_budget_in_minutes_ends_at_one_step_on_all_ranks(tmp_path: Path) -> None:
    """Each rank has a clock of its own; they go by the latest."""
    first, second = on_ranks(train_toy, tmp_path / "out", 2, tmp_path / "run", {"minutes": 0.01, "steps": None})
    assert first["state"] == second["state"] == "finished"
    assert first["seconds"] == second["seconds"] >= 0.6
    assert first["step"] == second["step"] == len(lines(tmp_path / "run" / "metrics.jsonl")) > 1


def test_a_batch_that_ranks_cannot_share(corpus: Path, tmp_path: Path) -> None:
    running = start(arguments(corpus, tmp_path / "run", global_batch_size=3), tmp_path / "logs", 2)
    assert running.wait() == [2, 2]
    assert running.output().count("A batch of 3 cannot be shared by 2 ranks. Take --batch-size 2") == 1
    assert not (tmp_path / "run").exists()
