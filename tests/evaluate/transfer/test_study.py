"""A whole study on made-up features, and the folder of its classifier."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate.transfer.made import ids, make_set

from overnight.errors import UserError
from overnight.evaluate.transfer import Classifier, FeatureKind, Study, TransferSettings, study
from overnight.train.folder import sha256

DIGEST = "a" * 64


def made_study(classes: int = 2, dev: bool = True, **settings: object) -> Study:
    made = make_set(classes, dev=dev)
    chosen = TransferSettings(**{"grid": (0.03, 0.3), **settings})  # type: ignore[arg-type]
    return study(
        made.data, made.train, made.dev if dev else None, made.test, digest=DIGEST, kind=FeatureKind(0, "mean", True),
        settings=chosen,
    )  # fmt: skip


def test_a_planted_unit_is_found_with_its_sign() -> None:
    made, found = make_set(), made_study()
    results, test = found.results, ids(make_set().data.test)
    best = results["best_unit"]
    assert (best["unit"], best["sign"]) == (7, -1)
    assert best["means"][0] > best["threshold"] > best["means"][1]
    assert best["test_accuracy"] == ((made.test[:, 7] < best["threshold"]) == test).mean() > 0.75
    assert results["units_by_weight"][0]["unit"] == 7
    assert results["units_by_weight"][0]["weights"][0] < 0
    assert results["all_units"]["test_accuracy"] == (found.test_probabilities.argmax(axis=1) == test).mean() > 0.75
    assert np.trace(results["confusion"]) / len(test) == results["all_units"]["test_accuracy"]
    assert results["by_number_of_units"][0]["units"] == 1
    assert results["by_number_of_units"][-1]["units"] == 12
    assert results["majority"] == 0.5
    assert results["baseline"]["test_accuracy"] > 0.7
    assert results["data"]["counts"]["dev"] == {"bad": 30, "good": 30}
    assert {record["learner"] for record in results["few_shot"]} == {"units", results["baseline"]["name"]}
    curve = [record["mean"] for record in results["few_shot"] if record["learner"] == "units"]
    assert curve[-1] > curve[0]
    assert results == json.loads(json.dumps(results, allow_nan=False))


def test_what_is_not_wanted_is_not_done() -> None:
    results = made_study(few_shot=False, ngrams=False).results
    assert "few_shot" not in results
    assert "baseline" not in results


def test_three_classes_without_dev() -> None:
    results = made_study(3, dev=False, few_shot=False).results
    assert results["all_units"]["chosen_on"] == "train, 5-fold cross-validation"
    assert np.array(results["confusion"]).shape == (3, 3)
    assert results["best_unit"]["sign"] == 0
    assert results["all_units"]["test_accuracy"] > 0.6


def test_features_that_are_not_finite_are_named() -> None:
    made = make_set()
    made.dev[3, 4] = np.nan
    with pytest.raises(UserError, match="Features of the dev texts are not all finite"):
        study(made.data, made.train, made.dev, made.test, digest=DIGEST)


def test_a_classifier_comes_back_as_it_was(tmp_path: Path) -> None:
    found, folder = made_study(few_shot=False, ngrams=False), tmp_path / "classifier"
    found.classifier.save(folder, {"results.json": found.results})
    again = Classifier.load(folder)
    made = make_set()
    np.testing.assert_array_equal(again.predict_proba(made.test), found.test_probabilities)
    assert again.kind == FeatureKind(0, "mean", True)
    assert (again.digest, again.classes, again.best_unit, again.sign) == (DIGEST, ("bad", "good"), 7, -1)
    assert again.threshold == found.classifier.threshold
    assert again.scores == found.classifier.scores
    assert again.predict(made.test[:1])[0] in again.classes
    assert json.loads((folder / "results.json").read_text()) == found.results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier"]


def test_a_classifier_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    classifier, folder = made_study(few_shot=False, ngrams=False).classifier, tmp_path / "classifier"
    with pytest.raises(UserError, match=r"other weights \(digest a{12}…\) than those of runs/b \(b{12}…"):
        classifier.check("b" * 64, "runs/b")
    classifier.check(DIGEST, "runs/a")
    with pytest.raises(UserError, match=r"shape \(2, 5\), not \(texts, 12\)"):
        classifier.predict_proba(np.zeros((2, 5)))
    with pytest.raises(UserError, match="There is no classifier at"):
        Classifier.load(folder)
    classifier.save(folder)
    described = (folder / "classifier.json").read_text()
    (folder / "classifier.json").write_text(described.replace("bad", "mad"))
    with pytest.raises(UserError, match=r"damaged: classifier\.json does not match its digest"):
        Classifier.load(folder)


@pytest.mark.parametrize("change", [lambda found: [found], lambda found: found | {"classes": 3}])
def test_a_classifier_whose_values_are_of_other_kinds_is_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    made_study(few_shot=False, ngrams=False).classifier.save(folder)
    file, digests = folder / "classifier.json", folder / "digest.json"
    before = sha256(file)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    digests.write_text(digests.read_text().replace(before, sha256(file)))
    with pytest.raises(UserError, match=r"The classifier .* cannot be read .*Train it again"):
        Classifier.load(folder)
