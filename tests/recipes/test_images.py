"""ResNet and AlexNet: published ladders row by row, what the recipes refuse, and runs from training to evaluation."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from oracles.digits import write_digits
from oracles.pictures import encoded, write_cifar, write_folders

from overnight.cli import main
from overnight.data.images import batches, sources
from overnight.data.images.memory import LabelledImages
from overnight.errors import UserError
from overnight.evaluate.images import evaluate_images
from overnight.recipes.alexnet import alexnet
from overnight.recipes.image_ladders import ALEXNET, RESNET50
from overnight.recipes.image_presets import ALEXNETS, IMAGENET_IMAGES, RESNETS
from overnight.recipes.resnet import resnet
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("pictures") / "cifar")


@pytest.fixture
def imagenet(tmp_path: Path) -> Iterator[Path]:
    """A folder with as many images as ImageNet has, of which none is read."""
    one = torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(IMAGENET_IMAGES, 1, 1, 3)
    images = LabelledImages(one, torch.zeros(1, dtype=torch.int64).expand(IMAGENET_IMAGES), 1000)
    assert batches.open_images is sources.open_images  # imported before, so that only the recipes see these
    with mock.patch.object(sources, "open_images", return_value=images):
        yield tmp_path


def small(run: Run, **changes: Any) -> Run:
    for name in ("width=4",) if run.recipe == "resnet" else ("widths=(8,8,8,8,8)", "hidden=16"):
        run = run.with_setting(f"model.{name}")
    return replace(run.with_setting("threads=1"), precision="fp32", **changes)


# The tables as published: batch, rate, epochs of warm-up.
LEGW = [
    (512, 4.0, 0.15625),
    (1024, 5.65685424949238, 0.3125),
    (4096, 11.31370849898476, 1.25),
    (8192, 16.0, 2.5),
    (16384, 22.62741699796952, 5.0),
    (32768, 32.0, 14.0),
]
LAMB = [
    (512, 0.005, 0.3125),
    (1024, 0.007071067811865475, 0.625),
    (2048, 0.01, 1.25),
    (4096, 0.01414213562373095, 2.5),
    (8192, 0.02, 5.0),
    (16384, 0.0282842712474619, 10.0),
    (32768, 0.04, 20.0),
]
MLPERF = [
    (1632, 7.4, 2), (3264, 10.5, 2), (4096, 10.0, 5), (8192, 17.0, 5), (13056, 12.8, 9), (32768, 21.2, 16),
    (49152, 19.405, 24), (58880, 23.246, 29), (65536, 24.699, 31), (67840, 24.699, 31),
]  # fmt: skip
ROWS = [
    *((resnet, "legw", *row) for row in LEGW),
    *((resnet, "lamb", *row) for row in LAMB),
    *((resnet, "mlperf", *row) for row in MLPERF),
    *((resnet, "lars", *row) for row in ((16384, 2.5, 5.0), (32768, 2.9, 5.0))),
    *((alexnet, "lars", *row) for row in ((512, 2.0, 5.0), (4096, 10.0, 5.0), (8192, 10.0, 5.0), (16384, 14.0, 5.0))),
]


@pytest.mark.parametrize(("recipe", "ladder", "batch", "lr", "warmup"), ROWS)
def test_every_row_of_the_published_ladders(
    imagenet: Path, recipe: Any, ladder: str, batch: int, lr: float, warmup: float
) -> None:
    run = recipe(imagenet, preset="imagenet", ladder=ladder, batch_size=batch)
    run.check()
    assert run.optimizer.keywords["lr"] == pytest.approx(lr, rel=1e-15)
    assert run.schedule.keywords["warmup_samples"] / IMAGENET_IMAGES == pytest.approx(warmup, rel=1e-15)
    assert (run.global_batch_size, run.model.keywords["classes"], run.notes) == (batch, 1000, ())
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()


def test_the_ladders_hold_those_rows_and_no_others() -> None:
    tested = {(recipe.__name__, ladder, batch) for recipe, ladder, batch, _, _ in ROWS}
    held = {("resnet", name, rung.batch) for name, ladder in RESNET50.items() for rung in ladder.rungs}
    held |= {("alexnet", name, rung.batch) for name, ladder in ALEXNET.items() for rung in ladder.rungs}
    assert tested == held


@pytest.mark.parametrize(("optimizer", "row"), [*(("lars", row) for row in LEGW), *(("lamb", row) for row in LAMB)])
def test_legw_derives_the_ladders_that_nobody_tuned(
    imagenet: Path, optimizer: str, row: tuple[int, float, float]
) -> None:
    """From batch 512 alone; LEGW's authors departed from their rule in one row."""
    batch, lr, warmup = row
    run = resnet(imagenet, preset="imagenet", optimizer=optimizer, batch_size=batch)
    assert run.optimizer.keywords["lr"] == pytest.approx(lr, rel=1e-14)
    derived = run.schedule.keywords["warmup_samples"] / IMAGENET_IMAGES
    assert derived == pytest.approx(10.0 if (optimizer, batch) == ("lars", 32768) else warmup, rel=1e-14)


def test_settings_of_the_published_runs(imagenet: Path) -> None:
    lamb = resnet(imagenet, preset="imagenet", ladder="lamb", batch_size=32768)
    assert (lamb.epochs, lamb.max_norm, lamb.task.keywords) == (90, 1.0, {"label_smoothing": 0.1})
    assert round(lamb.schedule.keywords["warmup_samples"] / 32768) == 782
    assert lamb.param_groups is not None
    assert lamb.param_groups.keywords == {"weight_decay": 1.5, "plain_lr": None}
    tuned = resnet(imagenet, preset="imagenet", ladder="mlperf", batch_size=32768)
    assert (tuned.optimizer.keywords["momentum"], tuned.epochs) == (0.94, 56.0)
    assert tuned.param_groups is not None
    assert tuned.param_groups.keywords["weight_decay"] == 2.5e-5
    legw = resnet(imagenet, preset="imagenet", ladder="legw", batch_size=32768)
    assert (legw.optimizer.keywords["eps"], legw.schedule.keywords["power"]) == (0.0, 2.0)
    assert legw.model.keywords["layers"] == (3, 4, 6, 3)
    assert legw.data.keywords["augment"] == "resized"


@pytest.mark.parametrize("recipe", [resnet, alexnet])
@pytest.mark.parametrize("optimizer", ["momentum", "lars", "lamb", "adamw"])
def test_norms_and_biases_neither_decay_nor_are_adapted(cifar: Path, recipe: Any, optimizer: str) -> None:
    run = small(recipe(cifar, optimizer=optimizer, batch_size=40, steps=9))
    parts = build(run, ALONE)
    names = {parameter: name for name, parameter in parts.task.model.named_parameters()}
    for group in parts.optimizer.param_groups:
        for parameter in group["params"]:
            plain = parameter.dim() <= 1
            assert group["weight_decay"] == (0.0 if plain else run.param_groups.keywords["weight_decay"]), names
            assert group.get("adapt", not plain) is not plain, names[parameter]
    if optimizer == "lars":  # at a rate of their own, which follows the rate
        rates = {group["lr"] for group in parts.optimizer.param_groups}
        assert rates == {run.optimizer.keywords["lr"], run.optimizer.keywords["lr"] / 40}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "cifar-smal"}, "no preset 'cifar-smal'. Did you mean cifar-small"),
        ({"optimizer": "larss"}, "no optimizer 'larss' in this preset. Did you mean lars"),
        ({"optimizer": "torch.optim.RMSprop"}, "no tuned rate of torch.optim.RMSprop"),
        ({"ladder": "legw"}, "no ladder 'legw' in this preset. Leave it out"),
        ({"batch_size": 0}, "A batch of 0 cannot work"),
        ({"batch_size": 101}, "There are 100 images, too few for a batch of 101"),
        ({"lr": 0.0}, "A rate of 0 cannot work"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs -1"),
        ({"warmup_epochs": 6.0}, "A warm-up of 600 images is longer than the run of 500"),
        ({"ema_samples": 0.0}, "--ema-samples 0 is no half-life"),
        ({"rule": "adam_sde"}, "adam_sde is for Adam's family"),
        ({"preset": "imagenet"}, "images of 32 × 32; the preset imagenet takes files of photographs"),
    ],
)
def test_what_is_refused(cifar: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resnet(cifar, **{"batch_size": 50} | settings)


def test_what_a_ladder_refuses(imagenet: Path) -> None:
    with pytest.raises(UserError, match=r"The ladder legw has no batch 2048. Take --batch-size 512, 1024, 4096"):
        resnet(imagenet, preset="imagenet", ladder="legw", batch_size=2048)
    with pytest.raises(UserError, match="The ladder lamb is lamb's"):
        resnet(imagenet, preset="imagenet", ladder="lamb", batch_size=512, optimizer="lars")


@pytest.fixture(scope="module")
def trained(cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = resnet(
        cifar, batch_size=20, lr=0.1, epochs=16, norm="ghost:10", ema_samples=100, evaluations=2, augment=False
    )
    train(small(run, log_every=10).with_setting("model.width=8"), folder, QUIET)
    return folder


def test_a_run_learns_and_is_evaluated(cifar: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["step"], summary["samples"]) == (80, 1600)
    assert summary["final"]["accuracy"] >= 0.8
    assert summary["baselines"][0]["accuracy"] == 0.1
    derived = json.loads((trained / "run.json").read_text())["derived"]
    assert (derived["metric"], derived["counted"], derived["steps_per_epoch"]) == ("accuracy", "images", 5)
    capsys.readouterr()
    assert main(["evaluate", str(trained), "--json", "--checkpoint", "last", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == summary["final"]["accuracy"]
    # what is evaluated is the average, of running statistics too
    checkpoint = load_checkpoint(trained / "checkpoints" / "00000080")
    loaded = load_model(trained, "last").model
    again = evaluate_images(loaded, sources.open_images(cifar, "test"))
    assert again.accuracy == summary["final"]["accuracy"]
    model = loaded.state_dict()
    for name in ("bn1.running_mean", "fc.weight"):
        assert torch.equal(model[name], checkpoint.ema[name])
        assert not torch.equal(model[name], checkpoint.model[name])
    assert set(checkpoint.model) - set(checkpoint.ema) == {n for n in model if n.endswith("num_batches_tracked")}


def test_resuming_is_exact(cifar: Path, tmp_path: Path) -> None:
    """Augmented batches, running statistics, momentum and the average go on bit for bit."""
    run = small(
        resnet(cifar, optimizer="lars", batch_size=24, steps=6, lr=2.0, warmup_epochs=0.5, ema_samples=100),
        evaluations=0,
        checkpoint_steps=3,
        keep_last=9,
    )
    run = replace(run, schedule=partial(run.schedule.func, warmup_samples=48, horizon_samples=1000))
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=3), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000006") for name in ("whole", "half"))
    for group in ("model", "optimizer", "ema"):
        mine, its = getattr(one, group), getattr(two, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine), group


def test_micro_batches_give_the_same_steps_with_virtual_batches(cifar: Path, tmp_path: Path) -> None:
    ends = []
    for micro in (None, 10):
        run = small(resnet(cifar, batch_size=40, micro_batch_size=micro, steps=3, norm="ghost:10"), evaluations=0)
        train(run, tmp_path / str(micro), QUIET)
        ends.append(load_checkpoint(tmp_path / str(micro) / "checkpoints" / "00000003").model)
    for name, weight in ends[0].items():
        if "running" not in name and "tracked" not in name:  # which move once a forward pass
            torch.testing.assert_close(weight, ends[1][name], msg=name)


def test_digits_and_folders(tmp_path: Path) -> None:
    """Grey images have one channel and are not mirrored; photographs are cut at random and held out by their middle."""
    run = resnet(write_digits(tmp_path / "digits"), batch_size=20, steps=2)
    assert (run.model.keywords["channels"], run.data.keywords["flip"]) == (1, False)
    parts = build(small(run), ALONE)
    assert parts.task(parts.data.at(0), {}).count == 20
    pytest.importorskip("PIL")
    folder = write_folders(tmp_path / "folders")
    run = resnet(folder, preset="imagenet", optimizer="momentum", batch_size=6, steps=2, warmup_epochs=0.0)
    for change in ("data.size=32", "evaluate.size=32", "baselines.size=32", "model.layers=(1,1)"):
        run = run.with_setting(change)
    train(small(run), tmp_path / "run", QUIET)
    assert json.loads((tmp_path / "run" / "eval.jsonl").read_text().splitlines()[-1])["images"] == 6
    (folder / "train" / "a" / "broken.png").write_bytes(encoded(np.zeros((40, 40, 3), np.uint8))[:-40])
    sources._listing.cache_clear()
    with pytest.raises(UserError, match=r"broken.png cannot be decoded"):
        train(small(replace(run, steps=4)), tmp_path / "stopped", QUIET)
    skipping = run.with_setting("data.bad_images=skip")
    train(small(replace(skipping, steps=4)), tmp_path / "skipped", QUIET)


def test_every_preset_makes_a_run(cifar: Path, imagenet: Path) -> None:
    for recipe, presets in ((resnet, RESNETS), (alexnet, ALEXNETS)):
        for name, preset in presets.items():
            for optimizer in preset.tuned:
                run = recipe(imagenet, preset=name, optimizer=optimizer)
                run.check()
                assert run.optimizer.keywords["lr"] == preset.tuned[optimizer].lr


def test_a_step_on_cifar_itself() -> None:
    if "OVERNIGHT_DATA" not in os.environ:
        pytest.skip("OVERNIGHT_DATA does not name the folder of real data")
    pytest.importorskip("PIL")
    data = Path(os.environ["OVERNIGHT_DATA"]) / "cifar10_jpeg"
    images = sources.open_images(data, "test", size=32)
    assert images.labels.bincount().tolist() == [1000] * 10
