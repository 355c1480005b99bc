"""Features of texts as a scikit-learn transformer."""

from collections.abc import Iterable
from functools import lru_cache
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
    """Texts → the cell state c that a trained byte model has after each (Radford et al. 2017, arXiv 1704.01444).

    A scikit-learn transformer, to be put in front of a classifier; also ``overnight.ByteFeatures``. Every text is read
    by itself from a zero state, framed as ``overnight.evaluate.framing.frame`` has it, many of them side by side and
    sorted by length. There is nothing to learn: ``fit`` only loads the model, and ``transform`` works without it. After
    ``fit``, ``transform`` refuses a run whose checkpoint has changed since.

    Copies, clones and pickles hold the run's path, not the weights, which one process loads once; with ``n_jobs`` above
    1 every process loads them again, and torch's own threads do the work better.

    Args:
        run: the run folder.
        layer: whose cell state, counted from the bottom, or from the top where negative.
        pool: the state after the ``last`` byte, or the ``mean`` or ``max`` over the states after every byte.
        tanh: give tanh c in the place of c.
        cache: a folder that keeps what was computed, so that a search over classifiers reads its texts once.
        lanes: texts read at once.
        precision: of the products: ``fp32``, ``bf16``, ``fp16`` or ``auto``, the one that training would choose.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.
        checkpoint: ``best``, ``last`` or a step.

    Attributes:
        n_features_out_: H, after ``fit``.
        model_digest_: identity of the weights, after ``fit``.

    Raises:
        UserError: from ``fit`` and ``transform``, if the run cannot be used, for a layer or setting out of its range,
            or for something that is no text.

    Example:
        ``make_pipeline(ByteFeatures("runs/reviews"), LogisticRegression(penalty="l1", solver="liblinear"))``
    """

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

    def fit(self, X: Iterable[Text] | None = None, y: Any = None) -> "ByteFeatures":
        """Load the model; the texts are not looked at."""
        model = self._model()
        self.n_features_out_: int = model.model.hidden_size
        self.model_digest_: str = model.digest
        return self

    def transform(self, X: Iterable[Text]) -> NDArray[np.float32]:
        """N texts (a list, an array, a Series, a table of one column, a generator) → float32 [N, H]."""
        model = self._model()
        if getattr(self, "model_digest_", model.digest) != model.digest:
            raise UserError(
                f"The {self.checkpoint} checkpoint of {self.run} is not the one that fit() saw.",
                "Fit again, or name the step as checkpoint.",
            )
        return model.features(
            X,
            layer=self.layer,
            pool=self.pool,
            tanh=self.tanh,
            cache=self.cache,
            lanes=self.lanes,
            precision=self.precision,
        )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """``unit0`` … ``unit{H - 1}``."""
        return np.array([f"unit{unit}" for unit in range(self._model().model.hidden_size)], dtype=object)

    def _model(self) -> ByteModel:
        from overnight.train.checkpoint import choose_checkpoint

        run = Path(self.run).resolve()
        return _loaded(run, str(self.checkpoint), self.device, choose_checkpoint(run, str(self.checkpoint)))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        tags.requires_fit, tags.no_validation = False, True
        return tags


@lru_cache(maxsize=1)
def _loaded(run: Path, checkpoint: str, device: str, folder: Path) -> ByteModel:
    return load_byte_model(run, checkpoint, device)
