"""The classifiers that `overnight classify train` left in a run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate.load import ByteModel
from overnight.serve.lanes import Array


class Trained(Protocol):
    """What is used of ``overnight.evaluate.transfer.Classifier``."""

    tanh: bool

    def predict_proba(self, features: Any) -> NDArray[Any]:
        """Features [N, H] → probabilities [N, classes]."""
        ...


@dataclass(frozen=True)
class Reader:
    """A classifier and the features that it reads.

    Attributes:
        name: of its folder.
        classifier: the weights.
        layer: of the features; negative ones from the top.
        pool: of the features.
        classes: their names.
        best_unit: the single unit that tells most, if known.
    """

    name: str
    classifier: Trained
    layer: int
    pool: str
    classes: tuple[str, ...]
    best_unit: int | None

    def results(self, features: Array) -> list[dict[str, Any]]:
        """The likeliest class and the probability of each, for raw cell states [N, H]."""
        if self.classifier.tanh:
            features = np.tanh(features)
        probabilities = self.classifier.predict_proba(features)
        return [
            {
                "label": self.classes[int(row.argmax())],
                "probabilities": [
                    {"label": label, "probability": float(value)}
                    for label, value in zip(self.classes, row, strict=True)
                ],
            }
            for row in probabilities
        ]

    def about(self) -> dict[str, Any]:
        """Its name, classes and best unit."""
        return {"name": self.name, "classes": list(self.classes), "best_unit": self.best_unit}


def find_classifiers(run: Path, model: ByteModel) -> tuple[dict[str, Reader], list[str]]:
    """Those that read this model by name, and a sentence for each that cannot be used."""
    found: dict[str, Reader] = {}
    problems: list[str] = []
    for file in sorted((run / "transfer").glob("*/classifier.json")):
        from overnight.evaluate.transfer import Classifier

        folder = file.parent
        try:
            classifier = Classifier.load(folder)
            if classifier.digest != model.digest:
                raise UserError(f"{folder} was trained on another model's features.", "Train it again.")
            layer, pool = int(classifier.layer), str(classifier.pool)
            classes = tuple(map(str, classifier.classes))
            found[folder.name] = Reader(folder.name, classifier, layer, pool, classes, classifier.best_unit)
        except UserError as error:
            problems.append(str(error))
    return found, problems
