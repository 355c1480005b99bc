"""LAMB and LARS in a loop of Lightning Fabric."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from loops.toy import OPTIMIZERS, STEPS, batches, classifier, plain_loop, schedule, weights

fabric_module = pytest.importorskip("lightning.fabric", reason="lightning is not installed (the extra loops)")
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@each_optimizer
@pytest.mark.parametrize("scheduled", ["the optimizer", "Fabric's wrapper of it"])
def test_the_loop_is_the_plain_one(name: str, scheduled: str) -> None:
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    model = classifier(torch.float64)
    own = OPTIMIZERS[name](model)
    model, optimizer = fabric.setup(model, own)
    scheduler = schedule(own if scheduled == "the optimizer" else optimizer)
    for x, y in batches(torch.float64):
        fabric.backward(F.cross_entropy(model(x), y))
        fabric.clip_gradients(model, optimizer, max_norm=1e9)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert scheduler.last_epoch == STEPS
    torch.testing.assert_close(weights(model), plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)


@each_optimizer
def test_clipped_gradients_are_those_of_torch(name: str) -> None:
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    model, plain = classifier(torch.float64), classifier(torch.float64)
    model, optimizer = fabric.setup(model, OPTIMIZERS[name](model))
    plain_optimizer = OPTIMIZERS[name](plain)
    for x, y in batches(torch.float64):
        fabric.backward(F.cross_entropy(model(x), y))
        assert fabric.clip_gradients(model, optimizer, max_norm=0.01) > 0.01
        F.cross_entropy(plain(x), y).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
        for one in (optimizer, plain_optimizer):
            one.step()
            one.zero_grad()
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision_trains(precision: str) -> None:
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1, precision=precision)
    model = classifier()
    model, optimizer = fabric.setup(model, OPTIMIZERS["LAMB"](model))
    losses = []
    for _ in range(10):
        for x, y in batches():
            loss = F.cross_entropy(model(x).float(), y)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert sum(losses[-STEPS:]) < 0.5 * sum(losses[:STEPS])


def test_save_and_load(tmp_path: Path) -> None:
    for first, last in ((0, 3), (3, STEPS)):
        fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
        model = classifier(torch.float64)
        model, optimizer = fabric.setup(model, OPTIMIZERS["LAMB"](model))
        scheduler = schedule(optimizer)
        state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        if first:
            fabric.load(tmp_path / "saved.ckpt", state)
        for x, y in batches(torch.float64)[first:last]:
            fabric.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        fabric.save(tmp_path / "saved.ckpt", state)
    torch.testing.assert_close(weights(model), plain_loop("LAMB", torch.float64), rtol=1e-12, atol=1e-13)
