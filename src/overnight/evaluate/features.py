"""Features of texts as a scikit-learn transformer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate.extraction import Pool
from overnight.evaluate.load import ByteModel, load_byte_model
from overnight.evaluate.texts import Text

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError:
    raise UserError("ByteFeatures needs scikit-learn.", "Install it: pip install 'overnight[eval]'.") from None


class ByteFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts → the cell state that a trained byte model has after each, a scikit-learn transformer."""

    def __init__(
        self,
        run: str | Path,
        *,
        layer: int = -1,
        pool: Pool = "last",
        tanh: bool = False,
        cache: str | Path | None = None,
        lanes: int = 128,
        precision: str = "auto",
        device: str = "auto",
        checkpoint: str = "best",
    ) -> None:
        self.run = run
        self.layer = layer
        self.pool = pool
        self.tanh = tanh
        self.cache = cache
        self.lanes = lanes
        self.precision = precision
        self.device = device
        self.checkpoint = checkpoint

    def fit(self, X: Iterable[Text], y: Any = None) -> "ByteFeatures":
        """Load the model; there is nothing to learn from the texts."""
        self.model_: ByteModel = load_byte_model(self.run, self.checkpoint, self.device)
        return self

    def transform(self, X: Iterable[Text]) -> NDArray[np.float32]:
        """Texts → float32 [N, H]."""
        return self.model_.features(
            X,
            layer=self.layer,
            pool=self.pool,
            tanh=self.tanh,
            cache=self.cache,
            lanes=self.lanes,
            precision=self.precision,
        )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """``unit0`` …"""
        return np.array([f"unit{unit}" for unit in range(self.model_.model.hidden_size)], dtype=object)
