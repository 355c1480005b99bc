"""Local steps on two ranks: DDP where they must be, torch's SGD outside, alike after exchanges, resumed exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from comm.local_work import (
    KINDS,
    MISTAKES,
    a_rank_that_stalls,
    alone,
    as_ddp,
    beside_torch,
    mistakes,
    moments_of_rows,
    not_finite,
    odd,
    of_16_bits,
    resumed,
    rows_or_whole,
    small_ways,
    trained,
)
from comm.test_sampled import alike, on_two
from torch import nn
from train.on_ranks import on_ranks

from overnight.comm import LocalSteps, ring_bytes
from overnight.errors import UserError


def test_one_local_step_of_sgd_is_ddp(tmp_path: Path) -> None:
    for found in on_two(as_ddp, tmp_path):
        for name, expected in found["ddp"].items():
            torch.testing.assert_close(found["local"][name], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_the_outer_step_is_torchs_sgd_on_the_mean_displacement(momentum: float, nesterov: bool, tmp_path: Path) -> None:
    for found in on_two(beside_torch, tmp_path, momentum, nesterov):
        assert len(found) == 4
        for weight, expected in found:
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_alike_bit_for_bit_after_every_exchange(kind: str, tmp_path: Path) -> None:
    first, second = on_two(trained, tmp_path, kind)
    for found in (first, second):
        assert found["exchanged"] == [False, True, False, True, False]
        assert alike(found["weights"][-1], found["again"])
    same = [alike(one, other) for one, other in zip(first["weights"], second["weights"], strict=True)]
    assert same == [True, False, True, False, True, False, True]
    moved = [not torch.equal(first["weights"][0][name], first["weights"][-1][name]) for name in first["weights"][0]]
    assert all(moved)


def test_bytes_of_a_step_are_those_of_ddp_over_the_number_of_local_steps(tmp_path: Path) -> None:
    for found in on_two(trained, tmp_path, "dense"):
        assert [traffic.steps for traffic in found["traffic"]] == [1] * 5
        whole = ring_bytes(sum(found["elements"].values()), 2)
        assert [traffic.wire_bytes for traffic in found["traffic"]] == [0, whole, 0, whole, 0]
        assert 0.0 < found["traffic"][1].waiting_seconds <= found["traffic"][1].busy_seconds < 60.0


def test_rows_that_no_rank_has_moved_are_not_exchanged(tmp_path: Path) -> None:
    """Three rows of fifty, and a mask of one byte a row; what comes of it is the same to the bit."""
    for found in on_two(rows_or_whole, tmp_path):
        rows, whole = found["rows"], found["whole"]
        assert torch.equal(rows[0], whole[0])
        assert whole[1].payload_bytes == 3 * 50 * 4 * 4
        assert rows[1].payload_bytes == 3 * (3 * 4 * 4 + 50)


def test_what_rounding_takes_away_is_not_lost(tmp_path: Path) -> None:
    for dtype in (None, "bf16"):
        for theta in on_two(small_ways, tmp_path / str(dtype), dtype):
            assert abs(float(theta) - 64 * 1.001) < 4e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_have_outer_ones_of_32(dtype: torch.dtype, tmp_path: Path) -> None:
    """Quarters of a unit in the last place add up: eight of them are two units."""
    for outer, weight, kept in on_two(of_16_bits, tmp_path, dtype):
        assert kept == dtype
        torch.testing.assert_close(outer, torch.full((1, 1), 1 + 2 * torch.finfo(dtype).eps), rtol=0, atol=1e-6)
        torch.testing.assert_close(weight, outer, rtol=0, atol=1e-6)


def test_buffers(tmp_path: Path) -> None:
    for rank, found in enumerate(on_two(odd, tmp_path)):
        assert torch.equal(found["mean"], torch.full((3,), 2.0))
        assert torch.equal(found["mask"], torch.tensor([0.0, float("-inf")]))
        assert int(found["seen"]) == 5
        assert torch.equal(found["cache"], torch.full((4 + rank,), float(rank)))
        assert torch.equal(found["frozen"], torch.full((3,), float(rank)))
        assert bool(torch.isfinite(found["weight"]).all())


def test_weights_that_are_not_finite_do_not_reach_the_others(tmp_path: Path) -> None:
    for said, outer_as_it_was, exchange_as_it_was in on_two(not_finite, tmp_path):
        assert "not finite" in said
        assert outer_as_it_was
        assert exchange_as_it_was


@pytest.mark.parametrize("mode", ["flush", "per_rank"])
def test_a_resumed_run_is_the_run_that_went_on(mode: str, tmp_path: Path) -> None:
    first, second = on_two(resumed, tmp_path, mode)
    for found in (first, second):
        assert found["saved"]["since_exchange"] == (2 if mode == "per_rank" else 0)
        torch.testing.assert_close(found["resumed"], found["went on"], rtol=0, atol=1e-6 if mode == "flush" else 0)
    if mode == "per_rank":
        weight, said = on_ranks(alone, tmp_path / "alone", 1, first["saved"], first["start"])[0]
        assert "of rank 0 of 2, this is rank 0 of 1" in str(said)
        return
    assert alike({"start": first["start"]}, {"start": second["start"]})
    weight, since = on_ranks(alone, tmp_path / "alone", 1, first["saved"], first["start"])[0]
    assert since == 0
    assert bool(torch.isfinite(weight).all())
    assert not torch.equal(weight, first["start"])


def test_dropped_local_steps_leave_the_outer_weights(tmp_path: Path) -> None:
    for found in on_two(resumed, tmp_path, "drop"):
        assert torch.equal(found["start"], found["common"])
        assert found["saved"]["residual"] == {}


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(mistakes, tmp_path_factory.mktemp("mistakes"), 2)


@pytest.mark.parametrize("name", MISTAKES)
def test_every_rank_says_what_is_wrong(name: str, raised: list[Any]) -> None:
    for found in raised:
        assert isinstance(found[name], UserError), found[name]
        assert MISTAKES[name][1] in str(found[name])


def test_without_a_process_group() -> None:
    with pytest.raises(UserError, match="no process group"):
        LocalSteps(nn.Linear(2, 2), every=2)


def test_a_rank_that_stalls_is_given_up_on(tmp_path: Path) -> None:
    waited, _ = on_ranks(a_rank_that_stalls, tmp_path, 2)
    assert not isinstance(waited, BaseException), waited
    seconds, said, outer_as_it_was = waited
    assert seconds < 4.5
    assert "The exchange of local steps failed" in said
    assert "the ranks met at 127.0.0.1:" in said
    assert outer_as_it_was


def test_moments_of_rows_are_averaged_as_of_one_step(tmp_path: Path) -> None:
    """Though their last gradients were in different steps on the ranks."""
    for expected, found in on_two(moments_of_rows, tmp_path):
        torch.testing.assert_close(found, expected)
