"""Ranks of one attempt meet each other, in a store that still holds what the attempt before has written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from train.launching import free_port
from train.on_ranks import on_ranks
from train.work import add_up, late

from overnight.errors import UserError
from overnight.train.distributed import start_world


@pytest.fixture
def agent_env() -> Iterator[dict[str, str]]:
    """A store that outlives the attempts, as torchrun's does."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set("overnight/ask/1", "somebody of the attempt before")
    yield {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    del store


def test_attempt_after_attempt(tmp_path: Path, agent_env: dict[str, str]) -> None:
    for attempt, ranks in enumerate((2, 2, 3, 1, 2)):
        found = on_ranks(add_up, tmp_path / str(attempt), ranks, env=agent_env)
        assert found == [(sum(range(1, ranks + 1)), False)] * ranks


def test_an_environment_that_is_not_torchruns(tmp_path: Path) -> None:
    (error,) = on_ranks(add_up, tmp_path, 1, env={"MASTER_ADDR": ""})
    assert isinstance(error, UserError)
    assert str(error) == (
        "RANK is set, but the ranks cannot meet: environment variable MASTER_ADDR expected, but not set. "
        "Start them with torchrun."
    )


def test_a_rank_that_never_comes_is_named(tmp_path: Path, agent_env: dict[str, str]) -> None:
    (error,) = on_ranks(add_up, tmp_path, 1, env=agent_env | {"WORLD_SIZE": "2", "OVERNIGHT_TEST_TIMEOUT": "0.5"})
    assert isinstance(error, UserError)
    assert error.problem == "Rank 1 of 2 has not come within 0:00:00.500000."


@pytest.mark.parametrize("agent", ["True", "False"], ids=["no master", "no other rank"])
def test_ranks_that_do_not_meet_name_the_address(tmp_path: Path, agent: str) -> None:
    port = str(free_port())
    here = {"MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": agent}
    (error,) = on_ranks(add_up, tmp_path, 1, env=here | {"OVERNIGHT_TEST_TIMEOUT": "1"})
    assert isinstance(error, UserError), error
    assert f"Rank 0 of 2 did not meet the others at 127.0.0.1:{port} within 1 s" in error.problem
    assert "\n" not in str(error)


def test_the_time_to_meet_is_not_the_time_to_wait_later(tmp_path: Path) -> None:
    assert on_ranks(late, tmp_path, 2, 3.0, 4.0) == [2, 2]


def test_a_torch_without_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    with pytest.raises(UserError, match="no backend 'gloo'"), start_world("cpu", group=True):
        pass
