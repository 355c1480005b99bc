"""Mistakes are found at the start, by every rank, in words; nothing waits for ever."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from comm.checks_work import (
    MISTAKES,
    STARTS,
    a_rank_that_does_not_start,
    a_rank_that_stalls,
    a_rank_that_stalls_in_ddp,
    meet,
    mistakes,
)
from train.launching import free_port
from train.on_ranks import on_ranks

from overnight.comm import sampled_parallel
from overnight.comm.meter import Meter
from overnight.errors import UserError
from overnight.nn.rows import SampledEmbedding


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
        sampled_parallel(SampledEmbedding(10, 2))


def test_ranks_that_do_not_meet(tmp_path: Path) -> None:
    port = str(free_port())
    nobody = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "1"}
    (missing,) = on_ranks(meet, tmp_path / "1", 1, nobody, "gloo", 2.0)
    (waiting,) = on_ranks(meet, tmp_path / "2", 1, {**nobody, "RANK": "0"}, "gloo", 2.0)
    for error, rank in ((missing, 1), (waiting, 0)):
        assert isinstance(error, UserError)
        assert f"Rank {rank} of 2 did not meet the others at 127.0.0.1:{port} within 2 s" in str(error)
    (alone,) = on_ranks(meet, tmp_path / "3", 1, {"MASTER_ADDR": "", "WORLD_SIZE": ""}, "gloo", 2.0)
    assert isinstance(alone, UserError)
    assert "MASTER_ADDR, WORLD_SIZE not set" in str(alone)
    (other,) = on_ranks(meet, tmp_path / "4", 1, nobody, "carrier pigeon", 2.0)
    assert isinstance(other, UserError)
    assert "no backend 'carrier pigeon'" in str(other)


def test_a_rank_that_stalls_is_given_up_on(tmp_path: Path) -> None:
    waited, _ = on_ranks(a_rank_that_stalls, tmp_path, 2)
    assert isinstance(waited, UserError), waited
    assert int(str(waited).split()[0]) <= 4
    assert "the ranks met at 127.0.0.1:" in str(waited)


def test_a_rank_that_stalls_in_ddp_is_given_up_on(tmp_path: Path) -> None:
    waited, _ = on_ranks(a_rank_that_stalls_in_ddp, tmp_path, 2)
    assert not isinstance(waited, BaseException), waited
    seconds, lost = waited
    assert seconds < 4.5
    assert lost


@pytest.mark.parametrize("way", STARTS)
def test_a_rank_that_does_not_start_is_given_up_on(way: str, tmp_path: Path) -> None:
    said, _ = on_ranks(a_rank_that_does_not_start, tmp_path, 2, way)
    assert "Meeting the other ranks failed" in said
    assert "the ranks met at 127.0.0.1:" in said


def test_a_callback_that_comes_late_is_waited_for() -> None:
    """Backward may return before the callback of what it waited for has run."""
    meter, future = Meter(), torch.futures.Future[int]()
    meter.step()
    meter.watch(future)
    late = threading.Timer(0.05, future.set_result, [1])
    late.start()
    traffic = meter.read()
    late.join()
    assert 0.0 < traffic.waiting_seconds <= traffic.busy_seconds < 10.0
    assert meter.read().waiting_seconds == 0.0


def test_a_meter_that_has_seen_nothing() -> None:
    traffic = Meter().read()
    assert (traffic.steps, traffic.calls, traffic.payload_bytes, traffic.waiting_seconds) == (0, {}, 0, 0.0)
