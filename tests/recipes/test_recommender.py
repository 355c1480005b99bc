"""The recommender: its loss and dense re-feeding by the formulas, and runs from training to the best by RMSE."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.ratings import dense_autoencoder, triples, write_ratings

from overnight.cli import main
from overnight.data.ratings import RatingSettings, RatingTable, load_ratings, split_table
from overnight.data.ratings.batches import RatingBatch, RatingBatches
from overnight.data.ratings.preparation import prepare_ratings
from overnight.errors import UserError
from overnight.evaluate.rating_baselines import damped_biases
from overnight.evaluate.ratings import evaluate_ratings, fixed_point_residual, rmse_interval
from overnight.models.autoencoder import RatingAutoencoder
from overnight.recipes.recommender import PRESETS, recommender
from overnight.tasks.recommendation import RecommendationTask
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))
SPLITS = split_table(RatingTable.from_arrays(*zip(*triples(), strict=True)), RatingSettings(test=0.2))
ITEMS = len(SPLITS.items)


def small_model(**settings: Any) -> RatingAutoencoder:
    torch.manual_seed(0)
    return RatingAutoencoder(ITEMS, (8, 4), **{"dropout": 0.0, **settings}).double()


def whole(batch: RatingBatch, shown_N: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """x and the mask [B, n] of a batch, or of the ratings shown."""
    rows = torch.repeat_interleave(torch.arange(batch.users), batch.offset_B.diff())
    x, mask = torch.zeros(2, batch.users, ITEMS, dtype=torch.float64)
    keep = torch.ones(batch.ratings, dtype=torch.bool) if shown_N is None else shown_N
    x[rows[keep], batch.item_N[keep]] = batch.value_N[keep].double()
    mask[rows[keep], batch.item_N[keep]] = 1.0
    return x, mask


def test_the_loss_is_the_masked_squared_error() -> None:
    model, batch = small_model(), RatingBatches(SPLITS.train, 16).at(0)
    x, mask = whole(batch)
    expected = ((dense_autoencoder(model, x, mask) - x).square() * mask).sum()
    loss = RecommendationTask(model)(batch, {})
    torch.testing.assert_close(loss.total, expected)
    assert (loss.count, loss.carry, loss.objective) == (int(mask.sum()), {}, None)


def test_hidden_ratings_are_not_seen() -> None:
    model, batch = small_model(biases=True), RatingBatches(SPLITS.train, 16, hide=0.5).at(0)
    (x, mask), (all_x, all_mask) = whole(batch, ~batch.hidden_N), whole(batch)  # type: ignore[operator]
    error = (dense_autoencoder(model, x, mask) - all_x).square() * all_mask
    for score, scored in (("all", all_mask), ("hidden", all_mask - mask)):
        loss = RecommendationTask(model, score=score)(batch, {})  # type: ignore[arg-type]
        torch.testing.assert_close(loss.total, (error * scored).sum())
        assert loss.count == int(scored.sum())


@pytest.mark.parametrize("dense_items", [None, 7])
def test_alternating_is_the_reference_codes(dense_items: int | None) -> None:
    """Two updates and then a third: y of the weights before the update is input and target of the next."""
    batches = RatingBatches(SPLITS.train, 16, repetitions=2, dense_items=dense_items)
    model, twin = small_model(), small_model()
    task = RecommendationTask(model, refeeding="alternating", repetitions=2, dense_items=dense_items)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (model, twin)]
    carry, y = task.initial_carry(16), torch.zeros(0)
    for step in range(6):
        batch = batches.at(step)
        loss = task(batch, carry)
        carry = dict(loss.carry)
        ((loss.total if loss.objective is None else loss.objective) / loss.count).backward()
        if batch.repetition == 0:
            x, mask = whole(batch)
            out = dense_autoencoder(twin, x, mask)
            mean = ((out - x).square() * mask).sum() / mask.sum()
            first = float(mean.detach())
        else:
            cells = torch.zeros(ITEMS, dtype=torch.float64)
            cells[slice(None) if batch.dense_M is None else batch.dense_M] = 1
            out = dense_autoencoder(twin, y * cells, cells.expand_as(y))
            mean = ((out - y).square() * cells).sum() / (16 * cells.sum())
            assert loss.count == 16 * int(cells.sum())
        y = out.detach()
        mean.backward()
        assert loss.total.item() / loss.count == pytest.approx(first)  # what is logged is of the ratings
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, its)


def test_joint_is_one_update() -> None:
    batch = RatingBatches(SPLITS.train, 16).at(0)
    model, twin = small_model(), small_model()
    task = RecommendationTask(model, refeeding="joint", repetitions=2, weight=0.5)
    loss = task(batch, {})
    loss.objective.backward()  # type: ignore[union-attr]
    x, mask = whole(batch)
    out = dense_autoencoder(twin, x, mask)
    total = ((out - x).square() * mask).sum()
    expected = total
    for _ in range(2):
        y = out.detach()
        out = dense_autoencoder(twin, y, torch.ones_like(y))
        expected = expected + 0.5 * mask.sum() * (out - y).square().mean()
    expected.backward()
    torch.testing.assert_close((loss.total, loss.objective), (total.detach(), expected))
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize(
    ("settings", "data", "said"),
    [
        ({"refeeding": "both"}, {}, "refeeding='both'"),
        ({"repetitions": 0}, {}, "repetitions=0"),
        ({}, {"repetitions": 1}, "Set task.refeeding=alternating"),
        ({"refeeding": "alternating"}, {"repetitions": 2}, "repeats more often than the task"),
        ({"refeeding": "alternating", "dense_items": 5}, {"repetitions": 1}, "differ in dense_items"),
    ],
)
def test_what_the_task_refuses(settings: dict[str, Any], data: dict[str, Any], said: str) -> None:
    batches = RatingBatches(SPLITS.train, 16, **data)

    def three_steps() -> None:
        task = RecommendationTask(small_model(), **settings)
        carry = task.initial_carry(16)
        for step in range(3):
            carry = dict(task(batches.at(step), carry).carry)

    with pytest.raises(UserError, match=said):
        three_steps()


def test_the_evaluation_scores_every_rating_once() -> None:
    model = small_model(biases=True, dropout=0.5)
    found = evaluate_ratings(model, SPLITS.train, SPLITS.test)
    users = np.arange(len(SPLITS.users))
    x, mask = whole(RatingBatches(SPLITS.train, len(users)).at(0))
    order = np.argsort(RatingBatches(SPLITS.train, len(users)).users(0))
    said = dense_autoencoder(model.eval(), x[order], mask[order]).detach().numpy()
    rows = np.repeat(users, SPLITS.test.counts)
    error = said[rows, SPLITS.test.items] - SPLITS.test.values
    assert found.rmse == pytest.approx(float(np.sqrt((error**2).mean())))
    assert found.mae == pytest.approx(float(np.abs(error).mean()))
    assert (found.ratings, found.users) == (len(error), int((SPLITS.test.counts > 0).sum()))
    assert found.low < found.rmse < found.high
    assert rmse_interval(np.array([4.0]), np.array([1]))[0] == 2.0


def test_the_residual_of_an_ideal_net_is_none() -> None:
    model = small_model(activation="none", biases=False)
    assert fixed_point_residual(model, SPLITS.train) > 0.01
    with torch.no_grad():
        model.input.zero_()
    assert fixed_point_residual(model, SPLITS.train) == 0.0


def small(run: Run, **changes: Any) -> Run:
    return replace(run.with_setting("threads=1"), precision="fp32", **changes)


SMALL: dict[str, Any] = {
    "preset": "netflix",
    "refeeding": "none",
    "hidden": (16, 8),
    "dropout": 0.2,
    "batch_size": 8,
    "duplicates": "last",
}


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("ratings") / "ratings.csv", 60, 30)


@pytest.fixture(scope="module")
def trained(ratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = recommender(
        ratings,
        hidden=(16,),
        dropout=0.2,
        batch_size=8,
        hide=0.4,
        lr=0.01,
        weight_decay=0.1,
        implicit=False,  # which of these ratings are there says nothing
        epochs=20,
        valid_share=0.1,
        refeeding="alternating",
        duplicates="last",
    )
    train(small(run, evaluations=5, log_every=5), folder, QUIET)
    return folder


def test_a_run_learns_and_the_best_is_by_rmse(ratings: Path, trained: Path) -> None:
    scored = [json.loads(line) for line in (trained / "eval.jsonl").read_text().splitlines()]
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["step"] == 300  # 60 users / 8 × 2 × 20
    first = min(scored, key=lambda line: line["rmse"])
    assert summary["best"] == {"step": first["step"], "rmse": first["rmse"]}
    assert first["rmse"] < 0.95 * summary["baselines"][0]["rmse"]
    assert all(line["split"] == "valid" and line["fixed_point_residual"] > 0 for line in scored)
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["loss"] < logged[0]["loss"]
    derived = json.loads((trained / "run.json").read_text())["derived"]
    assert (derived["metric"], derived["counted"]) == ("rmse", "ratings")
    model = load_model(trained, "last").model
    settings = RatingSettings(valid=0.1, duplicates="last")
    splits = load_ratings(ratings, settings)
    assert evaluate_ratings(model, splits.train, splits.valid).rmse == pytest.approx(scored[-1]["rmse"], abs=1e-6)


@pytest.mark.parametrize("refeeding", ["none", "alternating"])
def test_resuming_is_exact(ratings: Path, tmp_path: Path, refeeding: Any) -> None:
    """In the middle of an epoch, and between a batch and its dense pass."""
    run = small(
        recommender(ratings, steps=7, lr=0.01, schedule="constant", hide=0.3, **SMALL | {"refeeding": refeeding}),
        evaluations=0,
        checkpoint_steps=3,
        keep_last=9,
    )
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=3), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000007") for name in ("whole", "half"))
    for group in ("model", "optimizer", "carry", "rng"):
        mine, its = getattr(one, group), getattr(two, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine), group


@pytest.mark.parametrize("refeeding", ["none", "alternating"])
def test_micro_batches_give_the_same_steps(ratings: Path, tmp_path: Path, refeeding: Any) -> None:
    ends = []
    for micro in (None, 2):
        settings = SMALL | {"dropout": 0.0, "refeeding": refeeding}
        run = recommender(ratings, steps=6, lr=0.01, micro_batch_size=micro, **settings)
        train(small(run, evaluations=0), tmp_path / str(micro), QUIET)
        ends.append(load_checkpoint(tmp_path / str(micro) / "checkpoints" / "00000006").model)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], msg=name)


def test_a_prepared_corpus_gives_the_same_run(ratings: Path, tmp_path: Path) -> None:
    prepare_ratings(ratings, tmp_path / "corpus", RatingSettings(duplicates="last"))
    ends = []
    for place, data in enumerate((ratings, tmp_path / "corpus")):
        train(small(recommender(data, steps=3, lr=0.01, **SMALL), evaluations=1), tmp_path / str(place), QUIET)
        ends.append(json.loads((tmp_path / str(place) / "summary.json").read_text())["final"]["rmse"])
    assert ends[0] == ends[1]


def test_the_run_is_written_and_read(ratings: Path) -> None:
    run = recommender(
        ratings, split="time", scale=(-5, 5), columns=("userId", "movieId", "rating", "timestamp"), **SMALL
    )
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()
    assert len(build(small(again), ALONE).data.matrix) == len(build(small(run), ALONE).data.matrix)
    assert recommender(ratings, batch_size=8).optimizer.keywords["lr"] == pytest.approx(PRESETS["small"].lr / 2)


@pytest.mark.parametrize("by", ["user", "item"])
def test_biases_begin_at_damped_ones_and_do_not_decay(ratings: Path, by: Any) -> None:
    run = recommender(ratings, hidden=(4,), batch_size=8, by=by, weight_decay=0.7, steps=1, duplicates="last")
    parts = build(small(Run.from_json(json.loads(json.dumps(run.to_json())))), ALONE)
    model, train = parts.task.model, parts.data.matrix
    expected = damped_biases(train, 10.0, 5.0)
    np.testing.assert_allclose(model.item_bias.detach().numpy(), expected.item_bias, atol=1e-6)
    assert model.mean.item() == pytest.approx(expected.mean)
    decay = {p: group["weight_decay"] for group in parts.optimizer.param_groups for p in group["params"]}
    assert {name: decay[p] for name, p in model.named_parameters()} == {
        name: 0.7 if p.dim() > 1 else 0.0 for name, p in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "momentun"}, "no optimizer 'momentun'. Did you mean momentum"),
        ({"optimizer": "torch.optim.RMSprop"}, "no tuned rate of torch.optim.RMSprop"),
        ({"held_out": 1.5}, "cannot be held out"),
        ({"scale": (0.0, 5.0)}, "is outside the scale from 0 to 5"),
    ],
)
def test_what_is_refused(ratings: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recommender(ratings, **settings)


def test_the_command(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--steps",
        "3",
        "--hidden",
        "8",
        "4",
        "--batch-size",
        "8",
        "--set",
        "threads=1",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(["train", "recommender", "--data", str(ratings), *words]) == 0
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["final"]["ratings"] > 0
    capsys.readouterr()
    assert main(["train", "recommender", "--data", str(tmp_path / "none.csv"), *words[:-1], str(tmp_path / "s")]) == 2
    assert "none.csv does not exist" in capsys.readouterr().err


def test_preparing(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "--ratings", str(ratings), "--out", str(tmp_path / "c"), "--split", "time"]
    assert main([*words, "--held-out", "0.1", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "60 users, 30 items" in said
    assert f"Next: overnight train recommender --data {tmp_path / 'c'}" in said
    assert len(load_ratings(tmp_path / "c").valid) > 0
    for wrong, why in (([], "0 sources"), ([str(ratings), str(ratings)], "2 sources"), ([str(ratings)], "No folder")):
        assert main(["prepare", "--ratings", *wrong]) == 2
        assert why in capsys.readouterr().err
    assert main([*words[:5], "--scale", "1", "5", "--force"]) == 2
    assert "is outside the scale from 1 to 5" in capsys.readouterr().err


def test_on_movielens() -> None:
    if "OVERNIGHT_DATA" not in os.environ:
        pytest.skip("OVERNIGHT_DATA does not name the folder of real data")
    folder = Path(os.environ["OVERNIGHT_DATA"]) / "movielens_100k"
    splits = load_ratings(folder / "u1.base", test=folder / "u1.test")
    assert (len(splits.train), len(splits.test), len(splits.users), len(splits.items)) == (80_000, 19_968, 943, 1650)
    assert splits.dropped["test"]["cold_items"] == 32
