"""A parameter server and its workers: exact alone, counted together, and nobody hangs on another."""

import copy
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from comm.async_work import SERVER, points, push_for_ever, serve_for_ever, start, tiny
from comm.work import HIDDEN, WORDS, V, Words, batch
from torch import nn

from overnight.comm import AsyncWorker, HiddenRows, ParameterServer, Plan, Rows
from overnight.comm.asynchronous import ServerLostError, asynchronous
from overnight.errors import ElsewhereError, UserError
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.optim.rows import RowAdagrad, RowAdam, RowSGD

SECONDS = 20.0
Optimizers = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
}


@contextmanager
def serving(model: nn.Module, optimizer: Any = None, **options: Any) -> Iterator[ParameterServer]:
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    server = ParameterServer(model, chosen, **({"timeout_seconds": SECONDS} | options))
    try:
        yield server
    finally:
        server.close(0.0)


def connect(server: ParameterServer, model: nn.Module, rank: int = 1, **options: Any) -> AsyncWorker:
    return AsyncWorker.connect(
        "127.0.0.1", server.port, model, rank=rank, **({"timeout_seconds": SECONDS, "plan": server.plan} | options)
    )


def until(found: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def gradient(model: nn.Module, step: int, scale: float = 1.0) -> None:
    (scale * model(points(step)).square().mean()).backward()


@pytest.mark.parametrize("name", Optimizers)
@pytest.mark.parametrize("line", [True, False])
def test_one_worker_is_the_plain_optimizer_bit_for_bit(name: str, line: bool) -> None:
    plain, model = tiny(), tiny()
    optimizer = Optimizers[name](plain.parameters())
    with serving(model, Optimizers[name](model.parameters()), host="127.0.0.1", max_norm=0.05) as server:
        copied = tiny(seed=1) if line else copy.deepcopy(model)
        worker = connect(server, copied) if line else AsyncWorker.attach(server, copied)
        for step in range(8):
            worker.pull()
            gradient(copied, step)
            assert worker.push(count=5).staleness == 0
            gradient(plain, step)
            nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
            optimizer.step()
            optimizer.zero_grad()
            assert same(model, plain)
        worker.close()


@pytest.mark.parametrize("optimizer", [RowAdam, RowAdagrad, RowSGD])
def test_rows_are_pulled_and_pushed_as_a_plain_step_has_them(optimizer: Any) -> None:
    plain, model, copied = Words(), Words(), Words()
    plan = Plan({"output.*": Rows(random=0.05)})
    own = optimizer(plain.parameters(), lr=0.05)
    with serving(model, optimizer(model.parameters(), lr=0.05), host="127.0.0.1", plan=plan, max_norm=0.1) as server:
        worker = connect(server, copied)
        # the plan's samples are drawn for every step; the plain model takes the same
        plain.output.sampler, plain.output.samples = copied.output.sampler, copied.output.samples
        for step in range(6):
            worker.pull()
            before = worker.received_bytes
            copied(*batch(step, 0)).backward()
            if step == 0:
                rows = worker.received_bytes - before
                assert 0 < rows < V * 8 * 4  # of the embedding and the output together less than one of them
            worker.push(count=5)
            plain(*batch(step, 0)).backward()
            clip_grad_norm_(plain.parameters(), 0.1)
            own.step()
            own.zero_grad()
            assert same(model, plain)
        worker.pull_all()
        assert same(copied, model)
        worker.close()


def test_hidden_rows_keep_what_is_not_pushed() -> None:
    model = tiny()
    first, plan = copy.deepcopy(model), Plan({"0.weight": HiddenRows(0.5)})
    with serving(model, torch.optim.SGD(model.parameters(), lr=1.0), plan=plan) as server:
        copied = copy.deepcopy(model)
        worker, total = AsyncWorker.attach(server, copied), torch.zeros_like(model[0].weight)
        for step in range(5):
            worker.pull()
            gradient(copied, step)
            total += copied[0].weight.grad
            before = model[0].weight.detach().clone()
            worker.push()
            assert int((before != model[0].weight).any(1).sum()) == 4
        moved = first[0].weight - model[0].weight
        torch.testing.assert_close(moved + worker.gradients.kept["0.weight"], total)


def test_only_what_changed_is_pulled() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with serving(model, host="127.0.0.1") as server:
        copied, other = copy.deepcopy(model), copy.deepcopy(model)
        worker, attached = connect(server, copied), AsyncWorker.attach(server, other)
        got = []
        for change in (False, False, True):
            if change:
                attached.pull()
                other[1](torch.ones(64)).sum().backward()
                attached.push()
            before = worker.received_bytes
            worker.pull()
            got.append(worker.received_bytes - before)
        layer = 65 * 64 * 4
        assert got[0] > 2 * layer
        assert got[1] < 300
        assert layer < got[2] < layer + 400
        assert same(copied, model)
        worker.close()


def test_staleness_is_counted_bounded_and_slows() -> None:
    model = tiny()
    with serving(model, max_staleness=2, lr_by_staleness=True) as server:
        slow, quick = copy.deepcopy(model), copy.deepcopy(model)
        late, early = AsyncWorker.attach(server, slow, rank=0), AsyncWorker.attach(server, quick, rank=1)

        def push(worker: AsyncWorker, copied: nn.Module, step: int) -> Any:
            gradient(copied, step)
            return worker.push()

        def pull_and_push(step: int) -> None:
            early.pull()
            push(early, quick, step)

        late.pull()
        for step in range(2):
            pull_and_push(step)
        gradient(slow, 7)
        g, before = slow[0].weight.grad.clone(), model[0].weight.detach().clone()
        answer = late.push()
        assert (answer.taken, answer.staleness) == (True, 2)
        torch.testing.assert_close(model[0].weight, before - 0.1 / 3 * g)
        late.pull()
        for step in range(3):
            pull_and_push(step)
        frozen = copy.deepcopy(model)
        answer = push(late, slow, 8)
        assert (answer.taken, answer.staleness) == (False, 3)
        assert same(model, frozen)
        late.pull()
        assert push(late, slow, 8).taken
        assert server.staleness.refused == 1
        assert server.staleness.histogram() == {0: 6, 2: 1}
        assert server.version == sum(server.counts.pushes.values()) == 7


def test_several_pushes_are_one_update_of_their_joint_mean() -> None:
    model, plain = tiny(), tiny()
    with serving(model, pushes_per_update=2) as server:
        copies = [copy.deepcopy(model), copy.deepcopy(model)]
        workers = [AsyncWorker.attach(server, each, rank=rank) for rank, each in enumerate(copies)]
        for worker in workers:
            worker.pull()
        for worker, each, lanes in zip(workers, copies, (slice(0, 2), slice(2, 5)), strict=True):
            part = points(0)[lanes]
            each(part).square().mean().backward()
            worker.push(count=len(part))
        assert server.version == 1
    plain(points(0)).square().mean().backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_sparse_rows_of_several_pushes_add_up() -> None:
    model = Words()
    with serving(model, RowSGD(model.parameters(), lr=0.1), pushes_per_update=2, plan=WORDS) as server:
        plain, copies = Words(), [Words(), Words()]
        for rank, each in enumerate(copies):
            worker = AsyncWorker.attach(server, each, rank=rank)
            worker.pull()
            each(*batch(0, rank)).backward()
            plain.output.sampler, plain.output.samples = each.output.sampler, each.output.samples
            (0.5 * plain(*batch(0, rank))).backward()
            worker.push(count=3)
    RowSGD(plain.parameters(), lr=0.1).step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_every_push_of_several_workers_is_counted() -> None:
    model = Words()
    with serving(
        model, RowAdagrad(model.parameters(), lr=0.1), host="127.0.0.1", workers=3, plan=Plan({**WORDS.rules, **HIDDEN})
    ) as server:

        def work(rank: int) -> None:
            copied = Words()
            worker = connect(server, copied, rank)
            for step in range(10):
                worker.pull()
                copied(*batch(step, rank)).backward()
                worker.push(loss=1.0, count=3)
            worker.close()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        until(lambda: not server.sessions.live)
        assert dict(server.counts.pushes) == {1: 10, 2: 10, 3: 10}
        assert server.version == 30 == sum(server.staleness.histogram().values())
        assert (server.counts.opened, server.counts.lost) == (3, 0)
        assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_bf16_halves_the_bytes() -> None:
    sizes, models = [], []
    for dtype in (None, "bf16"):
        torch.manual_seed(0)
        model = nn.Linear(200, 50)
        with serving(model, host="127.0.0.1", plan=Plan({}, dtype=dtype)) as server:
            copied = copy.deepcopy(model)
            worker = connect(server, copied)
            worker.pull()
            copied(torch.ones(200)).square().sum().backward()
            worker.push()
            sizes.append((worker.sent_bytes, worker.received_bytes))
            models.append(copy.deepcopy(model))
            worker.close()
    for wide, half in zip(*sizes, strict=True):
        assert 201 * 50 * 2 < half < 201 * 50 * 2 + 1000 < wide
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0.05, atol=0.05)
    assert models[1].weight.dtype == torch.float32


def test_gradients_that_are_not_finite_change_nothing() -> None:
    model = tiny()
    with serving(model) as server:
        copied, before = copy.deepcopy(model), copy.deepcopy(model)
        worker = AsyncWorker.attach(server, copied)
        worker.pull()
        gradient(copied, 0, scale=float("nan"))
        answer = worker.push()
        assert (answer.taken, answer.finite) == (True, False)
        worker.pull()
        assert worker.push(finite=False).finite is False
        assert same(model, before)
        assert server.counts.not_finite == 2
        assert server.version == 0


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
