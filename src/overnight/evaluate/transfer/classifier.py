"""A classifier on the features of one model, and the folder that holds it.

Shape suffixes: N texts, H units, K classes.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from overnight.errors import UserError
from overnight.evaluate.transfer.logistic import Logistic
from overnight.train.folder import verify_folder, write_folder

FORMAT = "overnight-classifier/1"


@dataclass(frozen=True)
class FeatureKind:
    """How features are made of texts: arguments of `ByteModel.features`."""

    layer: int = -1
    pool: str = "last"
    tanh: bool = False


@dataclass(frozen=True)
class Classifier:
    """Logistic regression on the features of the model with `digest`.

    Attributes:
        classes: their names; the columns of probabilities.
        digest: of the model's weights (`ByteModel.digest`).
        kind: of the features.
        C: inverse strength of the L1 penalty.
        scores: numbers about it by name, such as "test_accuracy".
        best_unit: the unit that alone tells the classes apart best.
        sign: 1 if high values of it mean the second class, -1 if low ones do, 0 with more than two classes.
        threshold: of that unit's value; None with more than two classes.
    """

    model: Logistic
    classes: tuple[str, ...]
    digest: str
    kind: FeatureKind = field(default_factory=FeatureKind)
    C: float = 1.0
    scores: dict[str, float] = field(default_factory=dict)
    best_unit: int = 0
    sign: int = 0
    threshold: float | None = None

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.model.coef.shape[1])

    def predict_proba(self, features_NH: Any) -> NDArray[np.float64]:
        """Probabilities [N, K] of `classes`.

        Raises:
            UserError: the features are not [N, H].
        """
        features = np.asarray(features_NH)
        if features.ndim != 2 or features.shape[1] != self.hidden_size:
            raise UserError(
                f"The features have the shape {features.shape}, not (texts, {self.hidden_size}).",
                "Use the model that the classifier was trained with.",
            )
        return self.model.predict_proba(features)

    def predict(self, features_NH: Any) -> list[str]:
        """The likeliest class of each text."""
        return [self.classes[index] for index in self.predict_proba(features_NH).argmax(axis=1)]

    def check(self, digest: str, run: Path | str) -> None:
        """Refuse a model with other weights than those that it was trained with.

        Raises:
            UserError: the digests differ.
        """
        if digest != self.digest:
            raise UserError(
                f"The classifier was trained with other weights (digest {self.digest[:12]}…) than those of {run} "
                f"({digest[:12]}…).",
                "Name its own run and checkpoint, or train one for this run with overnight classify train.",
            )

    def features(self, model: Any, texts: Any, **options: Any) -> NDArray[np.float32]:
        """Features [N, H] of `texts` by a `ByteModel`, made as those it was trained on."""
        found: NDArray[np.float32] = model.features(texts, **asdict(self.kind), **options)
        return found

    def save(self, folder: str | Path, beside: dict[str, Any] | None = None) -> None:
        """Write `classifier.safetensors`, `classifier.json` and digests, whole or not at all.

        Args:
            folder: replaced if it is there.
            beside: more files of JSON, by name.

        Raises:
            UserError: it cannot be written.
        """
        described = {
            "format": FORMAT, "classes": list(self.classes), "model_digest": self.digest, **asdict(self.kind),
            "hidden_size": self.hidden_size, "C": self.C, "scores": self.scores, "best_unit": self.best_unit,
            "sign": self.sign, "threshold": self.threshold,
        }  # fmt: skip

        def fill(place: Path) -> None:
            tensors = {"coef": torch.from_numpy(self.model.coef), "intercept": torch.from_numpy(self.model.intercept)}
            save_file(tensors, str(place / "classifier.safetensors"))
            for name, value in {"classifier.json": described, **(beside or {})}.items():
                text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
                (place / name).write_text(text + "\n", encoding="utf-8", errors="replace")

        write_folder(Path(folder), fill)

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """Read what `save` wrote.

        Raises:
            UserError: there is none, it is damaged, or its format is not known.
        """
        place = Path(folder)
        if not (place / "classifier.json").is_file():
            raise UserError(
                f"There is no classifier at {place}.", "Train one with overnight classify train, and name its folder."
            )
        problem = verify_folder(place)
        if problem:
            raise UserError(f"The classifier {place} is damaged: {problem}.", "Train it again.")
        try:
            found = json.loads((place / "classifier.json").read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("classifier.json is no object")
            if found.get("format") != FORMAT:
                raise UserError(
                    f"{place} has the format {found.get('format')!r}; this version of overnight reads {FORMAT!r}.",
                    "Update overnight, or train the classifier again.",
                )
            tensors = load_file(str(place / "classifier.safetensors"))
            return cls(
                Logistic(tensors["coef"].double().numpy(), tensors["intercept"].double().numpy()),
                tuple(found["classes"]),
                found["model_digest"],
                FeatureKind(found["layer"], found["pool"], found["tanh"]),
                found["C"],
                found["scores"],
                found["best_unit"],
                found["sign"],
                found["threshold"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(f"The classifier {place} cannot be read ({error}).", "Train it again.") from error
