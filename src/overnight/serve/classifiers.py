"""The classifiers that `overnight classify train` left in a run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overnight.errors import UserError
from overnight.evaluate.load import ByteModel
from overnight.evaluate.transfer import Classifier
from overnight.serve.lanes import Array


@dataclass(frozen=True)
class Reader:
    """A classifier by the name of its folder."""

    name: str
    classifier: Classifier

    @property
    def layer(self) -> int:
        """Of the features; counted from the top where negative."""
        return self.classifier.kind.layer

    @property
    def pool(self) -> str:
        """How the states after each byte become features."""
        return self.classifier.kind.pool

    def results(self, features: Array) -> list[dict[str, Any]]:
        """The likeliest class and the probability of each, for cell states [N, H] as they are, without tanh."""
        classes = self.classifier.classes
        probabilities = self.classifier.predict_proba(np.tanh(features) if self.classifier.kind.tanh else features)
        return [
            {
                "label": classes[int(row.argmax())],
                "probabilities": [
                    {"label": label, "probability": float(value)} for label, value in zip(classes, row, strict=True)
                ],
            }
            for row in probabilities
        ]

    def about(self) -> dict[str, Any]:
        """Its name, classes, best unit, the layer of that unit, and what it scored."""
        found = self.classifier
        return {
            "name": self.name,
            "classes": list(found.classes),
            "layer": self.layer,
            "best_unit": found.best_unit,
            "sign": found.sign,
            "scores": found.scores,
        }


def find_classifiers(run: Path, model: ByteModel) -> tuple[dict[str, Reader], list[str]]:
    """Those that read this model, by name, and a sentence for each that cannot be used."""
    found: dict[str, Reader] = {}
    problems: list[str] = []
    for file in sorted((run / "transfer").glob("*/classifier.json")):
        try:
            classifier = Classifier.load(file.parent)
            classifier.check(model.digest, run)
            found[file.parent.name] = Reader(file.parent.name, classifier)
        except UserError as error:
            problems.append(str(error))
    return found, problems
