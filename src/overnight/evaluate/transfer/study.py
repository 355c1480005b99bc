"""Everything that is measured of a labelled set on a model's features: the classifier and its results.

Shape suffixes: N texts, H units.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnight.data.labelled import LabelledSet
from overnight.errors import UserError
from overnight.evaluate.transfer import scores
from overnight.evaluate.transfer.classifier import Classifier, FeatureKind
from overnight.evaluate.transfer.few_shot import few_shot_curve
from overnight.evaluate.transfer.heat import choose_texts
from overnight.evaluate.transfer.logistic import GRID, Chosen, ClassWeight, fit_chosen
from overnight.evaluate.transfer.ngrams import NAME, NGrams
from overnight.evaluate.transfer.units import UnitRule, histogram_of, rank_units

FORMAT = "overnight-transfer/1"

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_LISTED = 20
_CHOOSE_EACH = 4_000_000
"""With more numbers than this in the training features, the C that was chosen with all units and labels is kept."""


@dataclass(frozen=True)
class TransferSettings:
    """How a set is studied.

    Attributes:
        class_weight: "balanced" weighs classes by their rarity, and chooses C by balanced accuracy.
        standardise: fit on features with mean 0 and deviation 1.
        grid: values of C.
        few_shot: whether the curve over numbers of labels is made.
        ngrams: whether the bag of n-grams is fitted beside it.
        seed: of the fits and samples.
    """

    class_weight: ClassWeight = "none"
    standardise: bool = False
    grid: Sequence[float] = GRID
    few_shot: bool = True
    ngrams: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A classifier, what was measured of it, its probabilities of the test texts, and a few of those to look at."""

    classifier: Classifier
    results: dict[str, Any]
    test_probabilities: Floats
    worth_showing: list[int]


def study(
    data: LabelledSet,
    train_NH: Any,
    dev_NH: Any | None,
    test_NH: Any,
    *,
    digest: str,
    kind: FeatureKind | None = None,
    settings: TransferSettings | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> Study:
    """Fit and measure a classifier on features of a labelled set.

    Args:
        data: texts and labels.
        train_NH: features of its training texts.
        dev_NH: of its dev texts; None if it has none.
        test_NH: of its test texts.
        digest: of the model that made the features.
        kind: how it made them.
        settings: by default, those of Radford et al. 2017: L1, raw features, C of 2⁻⁸ … 2⁰ chosen on dev.
        on_progress: told what is being done.

    Raises:
        UserError: scikit-learn is not installed, a feature is not finite, or classes are too small.
    """
    settings, kind = settings or TransferSettings(), kind or FeatureKind()
    work = _Work(data, train_NH, dev_NH, test_NH, settings)
    on_progress("choosing C with all units")
    full = work.fit()
    probabilities = full.model.predict_proba(work.test)
    on_progress("ranking units")
    rules = rank_units(work.train, work.labels["train"], work.classes, balanced=settings.class_weight == "balanced")
    best = rules[0]
    calibration = scores.calibration_of(work.labels["test"], probabilities)
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": data.name,
        "data": work.described(),
        "features": {"digest": digest, **asdict(kind), "hidden_size": int(work.train.shape[1])},
        "settings": {key: value for key, value in asdict(settings).items() if key != "grid"},
        "classes": list(data.classes),
        "majority": float(np.mean(work.labels["test"] == np.bincount(work.labels["train"]).argmax())),
        "all_units": work.scored(full, probabilities),
        "best_unit": work.unit(best),
        "units_by_accuracy": [work.unit(rule) for rule in rules[:_LISTED]],
        "units_by_weight": _by_weight(full, work.train),
        "by_number_of_units": work.by_number(full, rules, on_progress),
        "confusion": scores.confusion_of(work.labels["test"], probabilities.argmax(axis=1), work.classes).tolist(),
        "calibration": asdict(calibration) | {"bins": [asdict(part) for part in calibration.bins]},
        "histogram": histogram_of(work.test[:, best.unit], work.labels["test"], work.classes),
    }
    results |= work.beside(full, on_progress)
    measured = {
        "test_accuracy": results["all_units"]["test_accuracy"],
        "one_unit_test_accuracy": results["best_unit"]["test_accuracy"],
    }
    classifier = Classifier(
        full.model, data.classes, digest, kind, full.C, measured, best.unit, best.sign, best.threshold
    )
    lengths = [len(text) for text in data.test.texts]
    chosen = choose_texts(work.test[:, best.unit], work.labels["test"], probabilities, lengths)
    return Study(classifier, results, probabilities, chosen)


class _Work:
    def __init__(self, data: LabelledSet, train: Any, dev: Any | None, test: Any, settings: TransferSettings) -> None:
        self.data, self.settings, self.classes = data, settings, len(data.classes)
        number = {name: index for index, name in enumerate(data.classes)}
        examples = {"train": data.train, "dev": data.dev, "test": data.test}
        self.labels: dict[str, Ids] = {
            split: np.array([number[label] for label in part.labels], dtype=np.int64)
            for split, part in examples.items()
            if part is not None
        }
        found = {"train": train, "dev": dev, "test": test}
        arrays = {split: np.asarray(found[split], dtype=np.float64) for split in self.labels}
        for split, array in arrays.items():
            if array.shape[:1] != self.labels[split].shape:
                raise ValueError(f"{array.shape[0]} features of {len(self.labels[split])} {split} texts")
            if not np.isfinite(array).all():
                raise UserError(
                    f"Features of the {split} texts are not all finite.", "The model has diverged; use another."
                )
        self.train, self.dev, self.test = arrays["train"], arrays.get("dev"), arrays["test"]

    def fit(self, units: Any = slice(None), chosen: Ids | None = None, grid: Sequence[float] | None = None) -> Chosen:
        x, y = self.train[:, units], self.labels["train"]
        x, y = (x, y) if chosen is None else (x[chosen], y[chosen])
        dev = None if self.dev is None else (self.dev[:, units], self.labels["dev"])
        options = self.settings
        return fit_chosen(
            (x, y), dev, self.classes,
            grid=options.grid if grid is None else grid,
            class_weight=options.class_weight, standardise=options.standardise, seed=options.seed,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        counts = {
            split: dict(zip(self.data.classes, np.bincount(labels, minlength=self.classes).tolist(), strict=True))
            for split, labels in self.labels.items()
        }
        return {"split": self.data.split, "counts": counts}

    def scored(self, full: Chosen, probabilities: Floats) -> dict[str, Any]:
        labels, predicted = self.labels["test"], probabilities.argmax(axis=1)
        accuracy = scores.accuracy_of(labels, predicted)
        low, high = scores.wilson_interval(accuracy, len(labels))
        return {
            "test_accuracy": accuracy,
            "low": low,
            "high": high,
            "balanced_accuracy": scores.balanced_accuracy_of(labels, predicted),
            "macro_f1": scores.macro_f1_of(labels, predicted, self.classes),
            "train_accuracy": scores.accuracy_of(self.labels["train"], full.model.predict(self.train)),
            "C": full.C,
            "chosen_on": full.on,
            "scores_by_C": [{"C": C, "score": score} for C, score in full.scores.items()],
            "nonzero": int(np.count_nonzero(np.abs(full.model.coef).sum(axis=0))),
            "converged": full.model.converged,
        }

    def unit(self, rule: UnitRule) -> dict[str, Any]:
        found = asdict(rule) | {"means": list(rule.means)}
        found["train_accuracy"] = found.pop("accuracy")
        return found | {"test_accuracy": scores.accuracy_of(self.labels["test"], rule.predict(self.test))}

    def by_number(
        self, full: Chosen, rules: Sequence[UnitRule], on_progress: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Test accuracy with the 1, 2, 4, … heaviest units, fitted anew on them; with all last.

        Units without a weight come after those that have one, the best alone first.
        """
        order = np.array(list(dict.fromkeys([*_heaviest(full, self.train).tolist(), *(rule.unit for rule in rules)])))
        found, count = [], 1
        while count < len(order):
            on_progress(f"the {count:,} heaviest units")
            grid = None if self.train.shape[0] * count <= _CHOOSE_EACH else [full.C]
            fit = self.fit(order[:count], grid=grid)
            accuracy = scores.accuracy_of(self.labels["test"], fit.model.predict(self.test[:, order[:count]]))
            found.append({"units": count, "test_accuracy": accuracy, "C": fit.C})
            count *= 2
        accuracy = scores.accuracy_of(self.labels["test"], full.model.predict(self.test))
        return [*found, {"units": int(self.train.shape[1]), "test_accuracy": accuracy, "C": full.C}]

    def beside(self, full: Chosen, on_progress: Callable[[str], None]) -> dict[str, Any]:
        """The bag of n-grams, and the curves over numbers of labels."""
        labels, options, found = self.labels, self.settings, dict[str, Any]()

        def units(chosen: Ids) -> Ids:
            grid = None if len(chosen) * self.train.shape[1] <= _CHOOSE_EACH else [full.C]
            return self.fit(chosen=chosen, grid=grid).model.predict(self.test)

        learners: dict[str, Callable[[Ids], Ids]] = {"units": units}
        if options.ngrams:
            on_progress("the bag of n-grams")
            dev = None if self.data.dev is None else self.data.dev.texts
            bag = NGrams.count(self.data.train.texts, dev, self.data.test.texts)
            model, C, test = bag.learn(
                labels["train"], labels.get("dev"), self.classes, class_weight=options.class_weight, seed=options.seed
            )
            accuracy = scores.accuracy_of(labels["test"], model.predict(test))
            low, high = scores.wilson_interval(accuracy, len(labels["test"]))
            found["baseline"] = {"name": NAME, "test_accuracy": accuracy, "low": low, "high": high, "C": C}

            def words(chosen: Ids) -> Ids:
                fitted, _, seen = bag.learn(
                    labels["train"], labels.get("dev"), self.classes, chosen,
                    grid=[C], class_weight=options.class_weight, seed=options.seed,
                )  # fmt: skip
                return fitted.predict(seen)

            learners[NAME] = words
        if options.few_shot:
            found["few_shot"] = few_shot_curve(
                labels["train"], labels["test"], self.classes, learners, seed=options.seed, on_progress=on_progress
            )
        return found


def _contributions(fit: Chosen, train_NH: Floats) -> Floats:
    """|weight| · deviation of each unit: a large weight of a unit that hardly moves says little."""
    return np.asarray(np.abs(fit.model.coef).max(axis=0) * train_NH.std(axis=0))


def _heaviest(fit: Chosen, train_NH: Floats) -> Ids:
    found = _contributions(fit, train_NH)
    return np.argsort(-found, kind="stable")[: np.count_nonzero(found)].astype(np.int64)


def _by_weight(fit: Chosen, train_NH: Floats) -> list[dict[str, Any]]:
    deviation = train_NH.std(axis=0)
    return [
        {"unit": int(unit), "weights": fit.model.coef[:, unit].tolist(), "deviation": float(deviation[unit])}
        for unit in _heaviest(fit, train_NH)[:_LISTED]
    ]
