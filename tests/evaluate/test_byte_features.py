"""ByteFeatures as scikit-learn uses it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from evaluate.byte_models import small_network, small_run

import overnight
from overnight.errors import UserError
from overnight.evaluate import features as module
from overnight.train.checkpoint import Checkpoint, save_checkpoint

pytest.importorskip("sklearn", reason="scikit-learn is not installed (the extra eval)")

TEXTS = ["good, so good", "bad, so bad", "good film", "bad film", "a good one", "a bad one"]
LABELS = [1, 0, 1, 0, 1, 0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run")


def test_the_package_offers_it_and_load(run: Path) -> None:
    assert overnight.ByteFeatures is module.ByteFeatures
    assert {"load", "ByteFeatures", "__version__"} <= set(dir(overnight))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        overnight.nothing  # noqa: B018
    expected = overnight.load(str(run)).features(TEXTS)
    assert expected.shape == (6, 24)
    found = overnight.ByteFeatures(run).fit_transform(TEXTS, LABELS)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(overnight.ByteFeatures(str(run)).transform(iter(TEXTS)), expected)


def test_parameters_clones_and_names(run: Path, tmp_path: Path) -> None:
    from sklearn.base import clone

    given = {"layer": 0, "pool": "max", "tanh": True, "cache": tmp_path / "cache", "lanes": 3, "precision": "fp32"}
    one = overnight.ByteFeatures(run, **given).fit(TEXTS)
    twin = clone(one)
    assert twin.get_params() == one.get_params() == {"run": run, **given, "device": "auto", "checkpoint": "best"}
    np.testing.assert_array_equal(twin.fit_transform(TEXTS), one.transform(TEXTS))
    assert not hasattr(clone(one), "model_digest_")
    assert list(one.get_feature_names_out()) == [f"unit{unit}" for unit in range(24)]
    assert one.n_features_out_ == 24
    other = clone(one).set_params(layer=1, pool="last")
    assert not np.array_equal(other.fit_transform(TEXTS), one.transform(TEXTS))
    assert list(tmp_path.joinpath("cache").rglob("*.npy"))


def test_a_pickle_is_small(run: Path) -> None:
    one = overnight.ByteFeatures(run).fit(TEXTS)
    data = pickle.dumps(one)
    assert len(data) < 2000
    np.testing.assert_array_equal(pickle.loads(data).transform(TEXTS), one.transform(TEXTS))


def test_in_a_pipeline_and_a_search(run: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline, make_union

    model = make_pipeline(overnight.ByteFeatures(run, cache=tmp_path / "cache"), LogisticRegression(C=100.0))
    search = GridSearchCV(model, {"logisticregression__C": [1.0, 100.0]}, cv=3, error_score="raise")
    search.fit(TEXTS, LABELS)
    assert search.best_estimator_.predict(TEXTS).shape == (6,)
    # three folds of training and of test texts, and all of them, whatever C
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 7
    both = make_union(overnight.ByteFeatures(run, layer=0), overnight.ByteFeatures(run, layer=1))
    assert both.fit_transform(TEXTS).shape == (6, 48)
    assert list(both.get_feature_names_out())[24] == "bytefeatures-2__unit0"


def test_set_output(run: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = overnight.ByteFeatures(run).set_output(transform="pandas").fit_transform(pandas.DataFrame({"text": TEXTS}))
    assert list(frame.columns)[:2] == ["unit0", "unit1"]
    assert frame.shape == (6, 24)


def test_what_scikit_learn_is_told_of_it(run: Path) -> None:
    from sklearn.utils import get_tags
    from sklearn.utils.validation import check_is_fitted

    tags = get_tags(overnight.ByteFeatures(run))
    assert tags.input_tags.string
    assert not tags.requires_fit
    check_is_fitted(overnight.ByteFeatures(run))
    assert "ByteFeatures(run=" in repr(overnight.ByteFeatures(run))


def test_a_checkpoint_that_changed_since_fit_is_refused(run: Path) -> None:
    one = overnight.ByteFeatures(run, checkpoint="last").fit(TEXTS)
    before = one.transform(TEXTS)
    named = overnight.ByteFeatures(run, checkpoint="10").fit(TEXTS)
    newer = Checkpoint(small_network(20).state_dict(), {}, {}, {}, {"step": 20, "samples": 0})
    save_checkpoint(run / "checkpoints", newer, keep_last=9)
    with pytest.raises(UserError, match="is not the one that fit"):
        one.transform(TEXTS)
    np.testing.assert_array_equal(named.transform(TEXTS), before)
    assert not np.array_equal(one.fit_transform(TEXTS), before)


def test_mistakes_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        overnight.ByteFeatures(tmp_path / "nothing").fit(TEXTS)
    with pytest.raises(UserError, match="no checkpoint '11'"):
        overnight.ByteFeatures(run, checkpoint="11").fit(TEXTS)
    with pytest.raises(UserError, match="One text was given"):
        overnight.ByteFeatures(run).transform("a text")
    with pytest.raises(UserError, match="layer=2"):
        overnight.ByteFeatures(run, layer=2).fit_transform(TEXTS)
