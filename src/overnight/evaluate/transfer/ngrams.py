"""The bag of n-grams that features are compared with: tf-idf of words and word pairs, L2 logistic regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate.transfer.logistic import ClassWeight, Logistic, fit_chosen

Ids = NDArray[np.int64]

NAME = "words and word pairs, tf-idf"
GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_TOKEN = r"\w+|[^\w\s]"
_RARE_ABOVE = 10_000
"""In larger training sets n-grams that occur in one text only are left out."""


@dataclass(frozen=True)
class NGrams:
    """Counts of n-grams in the texts of each split; the vocabulary is that of the training texts."""

    train: Any
    dev: Any
    test: Any

    @classmethod
    def count(cls, train: Sequence[str], dev: Sequence[str] | None, test: Sequence[str]) -> "NGrams":
        """Count them, in lower case; punctuation marks are words.

        Raises:
            UserError: scikit-learn is not installed, or the training texts hold no words.
        """
        try:
            from sklearn.feature_extraction.text import CountVectorizer
        except ImportError as error:
            raise UserError("N-grams need scikit-learn.", "Install it with: pip install 'overnight[eval]'.") from error
        rare = 2 if len(train) > _RARE_ABOVE else 1
        counter = CountVectorizer(ngram_range=(1, 2), token_pattern=_TOKEN, min_df=rare, dtype=np.float64)
        try:
            counts = counter.fit_transform(train)
        except ValueError as error:
            raise UserError("The training texts hold no words.", "Give texts with words in them.") from error
        return cls(counts.tocsr(), None if dev is None else counter.transform(dev), counter.transform(test))

    def learn(
        self,
        labels_N: Ids,
        dev_labels: Ids | None,
        classes: int,
        chosen: Ids | None = None,
        *,
        grid: Sequence[float] = GRID,
        class_weight: ClassWeight = "none",
        seed: int = 0,
    ) -> tuple[Logistic, float, Any]:
        """Learn from all training texts or from those `chosen`, knowing no n-gram of any other.

        Returns:
            The model, the C that did best on dev (without one: cross-validated), and the test texts as it sees them.
        """
        from sklearn.feature_extraction.text import TfidfTransformer

        train, labels = (self.train, labels_N) if chosen is None else (self.train[chosen], labels_N[chosen])
        known = np.flatnonzero(np.asarray(train.sum(axis=0)).ravel())
        if not len(known):
            known = np.arange(1)  # texts without a word: one column of zeros
        weigh = TfidfTransformer(sublinear_tf=True)
        x = weigh.fit_transform(train[:, known])
        test = weigh.transform(self.test[:, known])
        dev = None
        if self.dev is not None and dev_labels is not None:
            dev = (weigh.transform(self.dev[:, known]), dev_labels)
        fit = fit_chosen((x, labels), dev, classes, grid=grid, penalty="l2", class_weight=class_weight, seed=seed)
        return fit.model, fit.C, test
