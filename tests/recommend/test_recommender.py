"""The estimator: what it says against the net itself, new users, unknown ids, saving, and what it refuses."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.ratings import dense_autoencoder, triples, write_ratings

import overnight
from overnight.data.ratings import RatingSettings, RatingTable, split_table
from overnight.data.ratings.preparation import prepare_ratings
from overnight.errors import UserError
from overnight.recipes.recommender import PRESETS, recommender
from overnight.recommend.estimator import FoldedUser, Recommender, UnknownIdWarning
from overnight.train.checkpoint import load_model
from overnight.train.launch import Options, train

ROWS = triples()
COLUMNS = tuple(map(list, zip(*ROWS, strict=True)))
USERS, ITEMS = sorted({row[0] for row in ROWS}), sorted({row[1] for row in ROWS})
SMALL: dict[str, Any] = {"hidden": (12, 6), "epochs": 3, "batch_size": 8, "lr": 0.01, "weight_decay": 0.1}


@pytest.fixture(scope="module", params=["user", "item"])
def fitted(request: pytest.FixtureRequest) -> Recommender:
    return Recommender(by=request.param, **SMALL).fit(COLUMNS)


def whole(recommender: Recommender) -> np.ndarray:
    """[users, items] by products with whole matrices."""
    x, mask = torch.zeros(2, len(USERS), len(ITEMS))
    for user, item, rating, _ in ROWS:
        x[user, item], mask[user, item] = rating, 1.0
    if recommender.by == "item":
        x, mask = x.T, mask.T
    said = dense_autoencoder(recommender.model_, x, mask).detach().numpy()
    return said if recommender.by == "user" else said.T


def test_the_package_offers_it() -> None:
    assert overnight.Recommender is Recommender
    assert "Recommender" in dir(overnight)


def test_its_settings_are_the_presets() -> None:
    preset, own = PRESETS["small"], Recommender().get_params()
    names = ("hidden", "dropout", "last_activation", "biases", "normalized", "implicit", "bounded", "hide", "score",
             "refeeding", "batch_size", "lr", "weight_decay", "epochs")  # fmt: skip
    assert {name: own[name] for name in names} == {name: getattr(preset, name) for name in names}
    assert (preset.optimizer, preset.schedule) == ("adam", "cosine")


def test_predictions_are_the_nets(fitted: Recommender) -> None:
    users, items = np.meshgrid(USERS, ITEMS, indexing="ij")
    order = np.random.default_rng(0).permutation(users.size)
    found = fitted.predict(users.reshape(-1)[order], items.reshape(-1)[order])
    np.testing.assert_allclose(found, whole(fitted).reshape(-1)[order], atol=1e-5)
    assert fitted.predict([], []).shape == (0,)


def test_recommendations_are_the_highest_not_seen(fitted: Recommender) -> None:
    said = whole(fitted)
    for user in (0, 7):
        seen = {item for other, item, *_ in ROWS if other == user}
        expected = sorted((set(ITEMS) - seen), key=lambda item: -said[user, item])
        found = fitted.recommend(user, 4)
        assert [one.item for one in found] == expected[:4]
        np.testing.assert_allclose([one.rating for one in found], sorted(said[user])[::-1][:4] if not seen else
                                   said[user, expected[:4]], atol=1e-5)  # fmt: skip
        assert [one.item for one in fitted.recommend(user, 99)] == expected
        everything = fitted.recommend(user, 99, exclude_seen=False)
        assert [one.item for one in everything] == sorted(ITEMS, key=lambda item: -said[user, item])


def test_a_known_user_folded_in_is_that_user() -> None:
    fitted = Recommender(**SMALL).fit(COLUMNS)
    own = {item: rating for user, item, rating, _ in ROWS if user == 3}
    new = fitted.fold_in(own)
    assert isinstance(new, FoldedUser)
    np.testing.assert_allclose(new.predict(ITEMS), fitted.predict([3] * len(ITEMS), ITEMS), atol=1e-5)
    assert [one.item for one in new.recommend(5)] == [one.item for one in fitted.recommend(3, 5)]
    backwards = list(own)[::-1]
    again = fitted.fold_in((backwards, [own[item] for item in backwards]))
    np.testing.assert_array_equal(again.predict(ITEMS), new.predict(ITEMS))
    assert not np.allclose(fitted.fold_in({3: 3.0, 4: -3.0}).predict(ITEMS), new.predict(ITEMS), atol=1e-3)


def biases() -> tuple[float, np.ndarray, np.ndarray]:
    """μ, b_user and b_item by their formulas, in turn until they stand still."""
    mean, user, item = np.mean([row[2] for row in ROWS]), np.zeros(len(USERS)), np.zeros(len(ITEMS))
    for _ in range(60):
        for i in ITEMS:
            rest = [rating - mean - user[u] for u, other, rating, _ in ROWS if other == i]
            item[i] = sum(rest) / (5 + len(rest))
        for u in USERS:
            rest = [rating - mean - item[i] for other, i, rating, _ in ROWS if other == u]
            user[u] = sum(rest) / (5 + len(rest))
    return float(mean), user, item


@pytest.mark.parametrize("by", ["user", "item"])
def test_what_is_not_known_is_answered_by_the_biases_and_flagged(by: Any) -> None:
    fitted = Recommender(by=by, **SMALL).fit(COLUMNS)
    mean, user_bias, item_bias = biases()
    users, items = [2, "nobody", 5, 999], [8, 4, "none", -1]
    with pytest.warns(UnknownIdWarning, match="3 of 4 predictions are of users or items without a training rating"):
        found = fitted.predict(users, items)
    np.testing.assert_allclose(found[1:], [mean + item_bias[4], mean + user_bias[5], mean], atol=1e-5)
    again, known = fitted.predict(users, items, return_known=True)
    np.testing.assert_array_equal(again, found)
    assert known.tolist() == [True, False, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict(users, items, return_known=True)
        assert fitted.predict([2], [8]) == pytest.approx(found[:1], abs=1e-6)
    with pytest.warns(UnknownIdWarning, match="User nobody has no training rating") as told:
        most = fitted.recommend("nobody", 5)
    assert Path(told[0].filename) == Path(__file__)
    assert [one.item for one in most] == np.argsort(-item_bias, kind="stable")[:5].tolist()
    if by == "user":
        assert fitted.fold_in({}).recommend(5) == most
        with pytest.warns(UnknownIdWarning, match="1 of this user's 2 items have no training rating"):
            new = fitted.fold_in({"none": 3, 4: 2.0})
        np.testing.assert_array_equal(new.predict(ITEMS), fitted.fold_in({4: 2.0}).predict(ITEMS))
        with pytest.warns(UnknownIdWarning, match="1 of 1 predictions"):
            assert new.predict(["none"]) == pytest.approx(mean + (2.0 - mean - item_bias[4]) / 6, abs=1e-5)
    else:
        with pytest.raises(UserError, match="has a row for each item, and knows no users but those"):
            fitted.fold_in({4: 2.0})


def test_it_learns_and_again_the_same() -> None:
    splits = split_table(RatingTable.from_arrays(*zip(*triples(120, 40), strict=True)), RatingSettings(test=0.2))
    rows = np.repeat(np.arange(len(splits.users)), splits.train.counts)
    settings = {**SMALL, "epochs": 20, "hidden": (16,), "dropout": 0.2, "hide": 0.5, "lr": 0.02}
    before = torch.random.get_rng_state()
    one = Recommender(**settings).fit((rows, splits.train.items, splits.train.values))
    assert torch.equal(torch.random.get_rng_state(), before)
    asked = np.repeat(np.arange(len(splits.users)), splits.test.counts), splits.test.items
    error = one.predict(*asked) - splits.test.values
    rmse, mean = np.sqrt((error**2).mean()), np.sqrt(((splits.test.values - splits.train.mean) ** 2).mean())
    assert rmse < 0.85 * mean
    assert len(one.training_rmse_) == 20
    assert one.training_rmse_[-1] < one.training_rmse_[0]
    torch.manual_seed(5)
    two = Recommender(**settings).fit((rows, splits.train.items, splits.train.values))
    np.testing.assert_array_equal(one.predict(*asked), two.predict(*asked))


def test_it_trains_as_the_command_does(tmp_path: Path) -> None:
    """The same weights from the recipe and its trainer; without dropout, whose numbers are each one's own."""
    file = write_ratings(tmp_path / "ratings.csv")
    settings: dict[str, Any] = {"hidden": (12, 6), "dropout": 0.0, "batch_size": 8, "lr": 0.01, "weight_decay": 0.1}
    run = recommender(file, held_out=0.0, epochs=4, refeeding="joint", **settings)
    train(replace(run, precision="fp32", threads=1), tmp_path / "run", Options(device="cpu", quiet=True))
    own = Recommender(epochs=4, refeeding="joint", device="cpu", **settings).fit(file)
    its = load_model(tmp_path / "run", "last").model
    for name, weight in its.state_dict().items():
        torch.testing.assert_close(own.model_.state_dict()[name], weight, msg=name)
    loaded = Recommender.load(tmp_path / "run", checkpoint="last")
    assert [one.item for one in loaded.recommend("u3", 5)] == [one.item for one in own.recommend("u3", 5)]


def test_every_form_of_ratings(tmp_path: Path) -> None:
    file = write_ratings(tmp_path / "ratings.csv")
    prepare_ratings(file, tmp_path / "corpus", RatingSettings(test=0.0))
    users, items = [f"u{user}" for user in COLUMNS[0]], [f"i{item}" for item in COLUMNS[1]]
    forms: list[Any] = [
        str(file),
        tmp_path / "corpus",
        (users, items, COLUMNS[2]),
        [np.array(users), np.array(items), np.array(COLUMNS[2]), np.array(COLUMNS[3])],
        {"rating": COLUMNS[2], "item": items, "user": users},
        RatingTable.from_arrays(users, items, COLUMNS[2]),
    ]
    found = [Recommender(**SMALL).fit(form).predict(["u3", "u5"], ["i1", "i2"]) for form in forms]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    numbers = np.array([row[:3] for row in ROWS])
    assert [one.item for one in Recommender(**SMALL).fit(numbers).recommend(3, 2)] == [
        one.item for one in Recommender(**SMALL).fit(COLUMNS).recommend(3, 2)
    ]
    named = {"who": users, "what": items, "stars": COLUMNS[2]}
    chosen = Recommender(columns=("who", "what", "stars"), **SMALL).fit(named)
    np.testing.assert_array_equal(chosen.predict(["u3", "u5"], ["i1", "i2"]), found[0])


def test_saved_and_loaded(fitted: Recommender, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "kept")
    again = Recommender.load(folder)
    assert again.get_params() == {**fitted.get_params(), "hidden": [12, 6], "columns": []}
    np.testing.assert_array_equal(again.predict([3, 4], [1, 2]), fitted.predict([3, 4], [1, 2]))
    assert again.recommend(7, 5) == fitted.recommend(7, 5)
    again.fit(COLUMNS).save(folder)  # replaced
    np.testing.assert_array_equal(Recommender.load(folder).predict([3, 4], [1, 2]), fitted.predict([3, 4], [1, 2]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="other holds something else"):
        fitted.save(tmp_path / "other")
    with pytest.raises(UserError, match="other holds no recommender"):
        Recommender.load(tmp_path / "other")
    (folder / "items.txt").write_text("1\n")
    with pytest.raises(UserError, match=r"damaged: items\.txt does not match its digest"):
        Recommender.load(folder)


def test_a_run_whose_ratings_are_elsewhere_or_others(tmp_path: Path) -> None:
    file = write_ratings(tmp_path / "ratings.csv")
    run = recommender(file, hidden=(8,), batch_size=8, steps=2, by="item", scale=(-5, 5))
    train(replace(run, precision="fp32", threads=1), tmp_path / "run", Options(device="cpu", quiet=True))
    loaded = Recommender.load(tmp_path / "run")
    assert (loaded.by, loaded.scale) == ("item", (-5, 5))
    file.rename(tmp_path / "moved.csv")
    with pytest.raises(UserError, match=r"ratings\.csv does not exist"):
        Recommender.load(tmp_path / "run")
    again = Recommender.load(tmp_path / "run", data=tmp_path / "moved.csv")
    assert again.recommend("u1", 3) == loaded.recommend("u1", 3)
    write_ratings(file, 39)
    with pytest.raises(UserError, match=r"are not those that .* was trained on"):
        Recommender.load(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["run"]["data"]["kwargs"].pop("settings")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no run of a recommender"):
        Recommender.load(tmp_path / "run")


def test_clones_of_scikit_learn() -> None:
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed (the extra eval)")
    one = Recommender(hidden=(3,), seed=4)
    assert base.clone(one).get_params() == one.get_params()
    assert one.set_params(lr=0.5).lr == 0.5
    with pytest.raises(UserError, match="has no setting 'rate'"):
        one.set_params(rate=1)


def test_predictions_stay_within_the_scale() -> None:
    fitted = Recommender(scale=(-3, 3), **SMALL).fit(COLUMNS)
    fitted.model_.output_bias.data += 10
    assert fitted.predict([1], [1]).tolist() == [3.0]
    assert {one.rating for one in fitted.recommend(1, 9)} == {3.0}
    assert [one.item for one in fitted.recommend(1, 3)] == [one.item for one in fitted.fold_in(
        {item: rating for user, item, rating, _ in ROWS if user == 1}).recommend(3)]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "ratings", "said"),
    [
        ({}, ([1, 1], [2, 2], [3, 4]), "User 1 rated item 2 more than once"),
        ({"scale": (1, 5)}, ([1, 1, 2], [2, 3, 3], [3, 4, 7]), "Rating 2 is 7, outside the scale from 1 to 5"),
        ({}, ([1, 1], [2, 3], [3, 4]), "All training ratings are of one user, 1"),
        ({}, ([1, 2], [2, 2], [3, 4]), "All training ratings are of one item, 2"),
        ({}, ([1, 2], [2, 3], [3, float("nan")]), "Rating 1 is nan"),
        ({}, ([1, None], [2, 3], [3, 4]), "The user of rating 1 is None"),
        ({}, ([1, 2], [2, 3]), "cannot be made of a tuple like this one"),
        ({}, 7, "cannot be made of a int"),
        ({}, "none.csv", "none.csv does not exist"),
        ({}, {"user": [1], "item": [2]}, "The table: none of its columns .* is known to be the rating"),
        ({"epochs": 0}, COLUMNS, "epochs=0 cannot be"),
        ({"batch_size": 0}, COLUMNS, "batch_size=0 cannot be"),
        ({"device": "tpu"}, COLUMNS, "device='tpu' is not known"),
        ({"activation": "cube"}, COLUMNS, "activation='cube' is not known"),
        ({"lr": 1e9, "activation": "none", "weight_decay": 0.0}, COLUMNS, "The loss is no longer finite in epoch"),
    ],
)
def test_what_cannot_be_fitted(settings: dict[str, Any], ratings: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recommender(**{**SMALL, **settings}).fit(ratings)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    for ask in (lambda r: r.predict([1], [1]), lambda r: r.recommend(1), lambda r: r.fold_in({}),
                lambda r: r.save(tmp_path / "x")):  # fmt: skip
        with pytest.raises(UserError, match="is not fitted"):
            ask(Recommender())
    fitted = Recommender(scale=(-5, 5), **SMALL).fit(COLUMNS)
    for call, said in (
        (lambda: fitted.predict([1, 2], [1]), "as many users as items"),
        (lambda: fitted.predict("u", "i"), "as many users as items"),
        (lambda: fitted.predict([None], [1]), "The user of rating 0 is None"),
        (lambda: fitted.recommend(1, 0), "0 items cannot be recommended"),
        (lambda: fitted.fold_in({1: float("nan")}), "Rating 0 is nan"),
        (lambda: fitted.fold_in({1: 9}), "The rating 9 of item 1 is outside the scale from -5 to 5"),
        (lambda: fitted.fold_in(([1, 2, 1], [1, 2, 3])), "The rating 3 of item 1 is not the first of that item"),
        (lambda: fitted.fold_in(([1, 2], [1])), "differ in number"),
    ):
        with pytest.raises(UserError, match=said):
            call()
