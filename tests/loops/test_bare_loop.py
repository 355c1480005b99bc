"""LAMB and LARS in a bare loop: compiled models, gradient accumulation, autocast, GradScaler, DDP."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from loops.toy import BATCH, OPTIMIZERS, STEPS, batches, classifier, plain_loop, schedule, weights
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from train.on_ranks import on_ranks

from overnight.optim.groups import Rule, param_groups

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@each_optimizer
def test_a_compiled_model_is_trained_alike(name: str) -> None:
    torch._dynamo.reset()
    model = torch.compile(classifier(), backend="aot_eager")  # the backends that generate code need a compiler
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)
    for x, y in batches():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(model), plain_loop(name), rtol=1e-5, atol=1e-6)


@each_optimizer
def test_a_compiled_step_is_the_step(name: str) -> None:
    torch._dynamo.reset()
    model = classifier()
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)

    @torch.compile(backend="aot_eager")
    def update(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    for x, y in batches():
        update(x, y)
        scheduler.step()
    torch.testing.assert_close(weights(model), plain_loop(name), rtol=1e-5, atol=1e-6)


def test_rules_find_the_parameters_of_a_compiled_model() -> None:
    model = torch.compile(classifier(), backend="eager")
    groups = param_groups(model, (Rule({"weight_decay": 0.0}, names=("*.bias",)),), weight_decay=0.01)
    decay = {name: group["weight_decay"] for group in groups for name in group["param_names"]}
    assert {name for name, value in decay.items() if value == 0} == {f"_orig_mod.{n}.bias" for n in (0, 1, 3)}


@each_optimizer
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_gradients_are_the_large_batch(name: str, parts: int) -> None:
    model = classifier(torch.float64)
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)
    for x, y in batches(torch.float64):
        for some_x, some_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(model(some_x), some_y) / parts).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    # float64 sums in another order: a few roundings of 1e-16 a step
    torch.testing.assert_close(weights(model), plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)
    assert scheduler.samples == STEPS * BATCH


@each_optimizer
def test_bfloat16_autocast_trains(name: str) -> None:
    model = classifier()
    optimizer = OPTIMIZERS[name](model)
    losses = []
    for _ in range(10):
        for x, y in batches():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x)
            assert logits.dtype == torch.bfloat16
            loss = F.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert sum(losses[-STEPS:]) < 0.5 * sum(losses[:STEPS])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@each_optimizer
def test_a_grad_scaler_changes_nothing_but_skips_what_overflowed(name: str) -> None:
    model = classifier()
    optimizer = OPTIMIZERS[name](model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    scheduler = schedule(optimizer, scaler=scaler)
    before: list[Tensor] = []
    for number, (x, y) in enumerate([*batches()[:3], *batches()[2:]]):
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if number == 3:
            next(model.parameters()).grad[0, 0] = torch.inf
            before = weights(model)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        if number == 3:
            assert all(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))
    assert (scheduler.last_epoch, scheduler.skipped) == (STEPS, 1)
    # powers of two scale exactly, so only what is too small for float32 could differ
    torch.testing.assert_close(weights(model), plain_loop(name), rtol=1e-6, atol=1e-7)


def half_on_each_rank(name: str) -> list[Tensor]:
    """Two ranks, each with its half of every batch, in two micro-batches; the first without communication."""
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = classifier(torch.float64)
    ddp = DistributedDataParallel(model)
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)
    for x, y in batches(torch.float64):
        parts = list(zip(x.chunk(world_size)[rank].chunk(2), y.chunk(world_size)[rank].chunk(2), strict=True))
        for number, (some_x, some_y) in enumerate(parts):
            ddp.require_backward_grad_sync = number == 1
            (F.cross_entropy(ddp(some_x), some_y) / 2).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return weights(model)


@each_optimizer
def test_two_ranks_under_ddp_are_one_process(name: str, tmp_path: Path) -> None:
    first, second = on_ranks(half_on_each_rank, tmp_path, 2, name)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first, plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)
