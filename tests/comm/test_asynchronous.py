"""A parameter server and its workers: exact alone, counted together."""

import copy
import threading
from typing import Any

import pytest
import torch
from comm.async_serving import SECONDS, connect, gradient, same, serving, until
from comm.async_work import points, tiny
from comm.work import HIDDEN, WORDS, V, Words, batch
from torch import nn

from overnight.comm import AsyncWorker, HiddenRows, Plan, Rows
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.optim.rows import RowAdagrad, RowAdam, RowSGD

Optimizers = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
}


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


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad])
def test_rows_for_an_optimizer_that_decays_all_weights(kind: Any) -> None:
    model, alone = Words(), Words()
    with serving(model, kind(model.parameters(), lr=0.1, weight_decay=0.01)) as server:
        copied = Words()
        worker = AsyncWorker.attach(server, copied)
        worker.pull()
        copied(*batch(0, 0)).backward()
        before = {name: p.grad.to_dense().clone() for name, p in copied.named_parameters() if p.grad is not None}
        worker.push()
    optimizer = kind(alone.parameters(), lr=0.1, weight_decay=0.01)
    for name, p in alone.named_parameters():
        p.grad = before[name]
    optimizer.step()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


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
