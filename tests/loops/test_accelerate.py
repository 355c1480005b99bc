"""LAMB and LARS in a loop of Hugging Face Accelerate."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from loops.toy import BATCH, OPTIMIZERS, STEPS, batches, classifier, plain_loop, schedule, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from train.on_ranks import on_ranks

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (the extra loops)")
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.fixture(autouse=True)
def fresh_state() -> None:
    """Accelerate keeps what it found out about the process in classes."""
    _forget()


def _forget() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def loader(batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    x, y = (torch.cat(parts) for parts in zip(*batches(torch.float64), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def train(name: str, parts: int = 1, prepared_schedule: bool = False) -> tuple[nn.Module, int]:
    """The loop of Accelerate's own documentation; the weights and the updates made."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
    model = classifier(torch.float64)
    optimizer = OPTIMIZERS[name](model)
    batch_size = BATCH // parts // accelerator.num_processes
    model, optimizer, data = accelerator.prepare(model, optimizer, loader(batch_size))
    scheduler = schedule(optimizer)
    stepped = accelerator.prepare(scheduler) if prepared_schedule else scheduler
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            if prepared_schedule or accelerator.sync_gradients:
                stepped.step()
            optimizer.zero_grad()
    return accelerator.unwrap_model(model), scheduler.last_epoch


@each_optimizer
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("prepared_schedule", [False, True])
def test_the_loop_is_the_plain_one(name: str, parts: int, prepared_schedule: bool) -> None:
    model, updates = train(name, parts, prepared_schedule)
    assert updates == STEPS
    torch.testing.assert_close(weights(model), plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)


def on_this_rank(name: str, prepared_schedule: bool) -> list[Tensor]:
    os.environ["LOCAL_RANK"] = os.environ["RANK"]
    model, updates = train(name, 2, prepared_schedule)
    assert updates == STEPS
    return weights(model)


@each_optimizer
def test_two_ranks_are_one_process(name: str, tmp_path: Path) -> None:
    first, second = on_ranks(on_this_rank, tmp_path, 2, name, False)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)


def test_a_schedule_that_would_be_stepped_once_a_rank_is_refused(tmp_path: Path) -> None:
    for error in on_ranks(on_this_rank, tmp_path, 2, "LAMB", True):
        assert isinstance(error, RuntimeError)
        assert "keep it out of prepare()" in str(error)


def test_save_state_and_load_state(tmp_path: Path) -> None:
    def start() -> tuple[object, nn.Module, torch.optim.Optimizer, object]:
        _forget()
        accelerator = accelerate.Accelerator(cpu=True)
        model = classifier(torch.float64)
        model, optimizer = accelerator.prepare(model, OPTIMIZERS["LAMB"](model))
        scheduler = schedule(optimizer)
        accelerator.register_for_checkpointing(scheduler)
        return accelerator, model, optimizer, scheduler

    for first, last in ((0, 3), (3, STEPS)):
        accelerator, model, optimizer, scheduler = start()
        if first:
            accelerator.load_state(str(tmp_path / "saved"))
        for x, y in batches(torch.float64)[first:last]:
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        accelerator.save_state(str(tmp_path / "saved"))
    assert scheduler.last_epoch == STEPS
    torch.testing.assert_close(weights(model), plain_loop("LAMB", torch.float64), rtol=1e-12, atol=1e-13)
