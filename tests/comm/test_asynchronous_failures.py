"""A parameter server and its workers: deaths, stalls, mismatches and mistakes are told, and nobody hangs on another."""

import socket
import threading
import time
from typing import Any

import pytest
import torch
from comm.async_serving import SECONDS, connect, gradient, serving, until
from comm.async_work import SERVER, push_for_ever, serve_for_ever, start, tiny
from comm.work import Words
from torch import nn

from overnight.comm import AsyncWorker, HiddenRows, ParameterServer, Plan, Rows
from overnight.comm.asynchronous import ServerLostError, asynchronous
from overnight.errors import ElsewhereError, UserError
from overnight.optim.rows import RowSGD


def test_a_killed_worker_costs_its_own_work_only_and_may_come_back() -> None:
    model = tiny()
    with serving(model, host="127.0.0.1", workers=2) as server:
        doomed = start(push_for_ever, server.port, 2)
        copied = tiny()
        worker = connect(server, copied)
        until(lambda: server.counts.pushes[2] > 2)
        doomed.kill()
        doomed.join()
        until(lambda: 2 not in server.sessions.live)
        assert server.counts.lost == 1
        before = server.counts.pushes[2]
        for step in range(5):
            worker.pull()
            gradient(copied, step)
            assert worker.push().taken
        again = start(push_for_ever, server.port, 2)
        until(lambda: server.counts.pushes[2] > before)
        assert server.version == sum(server.counts.pushes.values())
        assert server.counts.opened == 3
        worker.close()
        again.kill()


def test_one_that_comes_again_takes_its_own_place() -> None:
    model = tiny()
    with serving(model, host="127.0.0.1") as server:
        old, new = connect(server, tiny()), connect(server, tiny())
        assert list(server.sessions.live) == [1]
        assert server.counts.opened == 2
        with pytest.raises(ServerLostError):
            old.pull()
        new.pull()
        new.close()


def test_a_stalled_worker_blocks_nobody() -> None:
    model = tiny()
    with serving(model, host="127.0.0.1", timeout_seconds=1.5) as server:
        stalled, copied = connect(server, tiny(), rank=2), tiny()
        stalled.pull()
        worker = connect(server, copied)
        began = time.monotonic()
        while 2 in server.sessions.live:
            worker.pull()
            gradient(copied, 0)
            assert worker.push().taken
            assert time.monotonic() - began < SECONDS
        assert worker.pushes > 10
        assert server.counts.lost == 1
        with pytest.raises(ServerLostError, match=f"127.0.0.1:{server.port} is gone"):
            stalled.pull()
        worker.close()


def test_a_server_that_dies_is_told_with_its_address() -> None:
    here, there = SERVER.Pipe()
    doomed = start(serve_for_ever, there)
    assert here.poll(SECONDS)
    port = here.recv()
    worker = AsyncWorker.connect("127.0.0.1", port, tiny(), rank=1, timeout_seconds=SECONDS)
    worker.pull()
    doomed.kill()
    doomed.join()
    began = time.monotonic()
    with pytest.raises(ServerLostError, match=f"The parameter server at 127.0.0.1:{port} is gone"):
        worker.pull()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("listens", [False, True])
def test_no_server_is_told_in_time_with_the_address(listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()  # and says nothing
        port, began = other.getsockname()[1], time.monotonic()
        with pytest.raises(ServerLostError, match=f"127.0.0.1:{port}"):
            AsyncWorker.connect("127.0.0.1", port, tiny(), rank=1, timeout_seconds=1)
    assert time.monotonic() - began < 6


def test_the_end_and_a_failure_are_told() -> None:
    model = tiny()
    with serving(model, host="127.0.0.1") as server:
        copied, other = tiny(), tiny()
        worker, attached = connect(server, copied), AsyncWorker.attach(server, other)
        server.limit, server.told = 1, {"checkpoint": "here"}
        for each in (worker, attached):
            each.pull()
        gradient(copied, 0)
        gradient(other, 0)
        assert worker.push().taken
        answer = attached.push()
        assert (answer.taken, answer.ended, answer.told) == (False, "finished", {"checkpoint": "here"})
        server.end("failed", ("The disk is full.", "Free some."))
        with pytest.raises(ElsewhereError, match="The disk is full"):
            worker.pull()
        worker.close()


def test_what_workers_give() -> None:
    model = tiny()
    with serving(model, host="127.0.0.1", on_join=lambda rank: ({"step": 7}, {"h": torch.full((2,), rank)})) as server:
        copied = tiny()
        worker = connect(server, copied)
        assert worker.said == {"step": 7}
        assert worker.given["h"].tolist() == [1, 1]
        assert server.sessions.ask(0.05) == {}
        worker.pull()
        gradient(copied, 0)
        assert worker.push().asked
        worker.give({"h": torch.arange(3)})
        assert server.sessions.given[1]["h"].tolist() == [0, 1, 2]
        worker.close({"h": torch.arange(2)})
        until(lambda: not server.sessions.live)
        assert server.sessions.ask(SECONDS)[1]["h"].tolist() == [0, 1]


MISMATCHES: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "model": (nn.Linear(3, 3), {}),
    "plan": (tiny(), {"plan": Plan({"0.weight": HiddenRows(0.5)})}),
    "data": (tiny(), {"data": "other"}),
    "settings": (tiny(), {"also": {"settings": "other"}}),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_worker_of_another_kind_is_refused(what: str) -> None:
    model, options = MISMATCHES[what]
    with serving(tiny(), host="127.0.0.1", data="mine", also={"settings": "mine"}) as server:
        given: dict[str, Any] = {"data": "mine", "also": {"settings": "mine"}, "plan": None} | options
        with pytest.raises(UserError, match=f"The {what} of rank 1 is not that of the parameter server at 127"):
            connect(server, model, **given)
        assert not server.sessions.live


def test_rows_that_were_not_pulled_are_found() -> None:
    model = Words()
    with serving(model, RowSGD(model.parameters(), lr=0.1)) as server:
        copied = Words()
        worker = AsyncWorker.attach(server, copied)
        worker.pull({"embedding.weight": torch.tensor([3])})
        nn.functional.embedding(torch.tensor([3, 4]), copied.embedding.weight, sparse=True).sum().backward()
        with pytest.raises(UserError, match=r"The gradient of embedding\.weight has rows that were not pulled"):
            worker.push()
        with pytest.raises(UserError, match="no parameter of which rows are pulled"):
            worker.pull({"rnn.weight_hh_l0": torch.tensor([0])})


def test_rows_used_outside_their_module_are_found_in_dense_gradients_too() -> None:
    plan = Plan({"embedding.weight": Rows()})
    model = Words(sparse=False)
    with serving(model, plan=plan) as server:
        copied = Words(sparse=False)
        worker = AsyncWorker.attach(server, copied)
        worker.pull()
        weight = copied.embedding.weight
        h = copied.embedding(torch.tensor([3]))
        nn.functional.linear(h, weight).square().sum().backward()  # all rows, of which one was pulled
        with pytest.raises(UserError, match=r"The gradient of embedding\.weight has rows that were not pulled"):
            worker.push()


class Breaks(torch.optim.SGD):
    """Its first step fails."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise RuntimeError("no more memory")


@pytest.mark.parametrize("line", [True, False])
def test_an_update_that_fails_ends_the_server_and_is_told(line: bool) -> None:
    model = tiny()
    with serving(model, Breaks(model.parameters(), lr=0.1), host="127.0.0.1") as server:
        copied = tiny()
        worker = connect(server, copied) if line else AsyncWorker.attach(server, copied)
        worker.pull()
        gradient(copied, 0)
        said = "could not update: RuntimeError: no more memory" if line else "no more memory"
        with pytest.raises(UserError if line else RuntimeError, match=said):
            worker.push()
        assert server.ended == "failed"
        assert all(p.grad is None for p in model.parameters())
        other = AsyncWorker.attach(server, tiny(), rank=2)
        with pytest.raises(ElsewhereError, match="no more memory"):
            other.pull()
        worker.close()


def test_who_did_not_answer_is_not_waited_for_again() -> None:
    with serving(tiny(), host="127.0.0.1") as server:
        workers = [connect(server, tiny(), rank) for rank in (1, 2)]
        assert server.sessions.ask(0.3) == {}
        workers[0].pull()
        workers[0].push(finite=False)
        workers[0].give({"h": torch.zeros(1)})
        began = time.monotonic()
        done = threading.Timer(0.2, lambda: (workers[0].push(finite=False), workers[0].give({"h": torch.ones(1)})))
        done.start()
        assert server.sessions.ask(SECONDS)[1]["h"].tolist() == [1]  # and not those seconds for the second
        assert time.monotonic() - began < SECONDS / 2
        done.join()
        for worker in workers:
            worker.close()


def test_settings_that_cannot_be() -> None:
    model = tiny()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for name in ("workers", "pushes_per_update", "max_staleness"):
        with pytest.raises(UserError, match=name):
            ParameterServer(model, sgd, **{name: -1})
    with pytest.raises(UserError, match="matches no parameter"):
        ParameterServer(model, sgd, plan=Plan({"nothing": HiddenRows()}))
    with serving(model, host="127.0.0.1") as server:
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{server.port}"):
            ParameterServer(model, sgd, host="127.0.0.1", port=server.port)
        with pytest.raises(UserError, match="a model of its own"):
            AsyncWorker.attach(server, model)
    for settings in ({"max_staleness": -1}, {"pushes_per_update": 0}, {"timeout_seconds": 0}, {"start_seconds": -1}):
        with pytest.raises(UserError, match=next(iter(settings))):
            asynchronous(**settings)  # type: ignore[arg-type]
    assert asynchronous(hidden=[["rnn.*", 4]], dense=True).plan == Plan()
