"""A recommender with the calls of scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from overnight.data.ratings.batches import gather
from overnight.data.ratings.ids import Ids
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError
from overnight.models.autoencoder import RatingAutoencoder
from overnight.recommend.answers import Answers
from overnight.recommend.fitting import fit_autoencoder
from overnight.recommend.given import Ratings, training_ratings
from overnight.recommend.users import FoldedUser, Recommendation, UnknownIdWarning, flag, places, ranked, told

__all__ = ["FoldedUser", "Recommendation", "Recommender", "UnknownIdWarning"]


class Recommender:
    """Ratings → what every user would give every item; also ``overnight.Recommender``.

    The deep autoencoder of Kuchaiev and Ginsburg 2017 (arXiv 1708.01715; ``overnight.models.autoencoder``), trained
    with the settings of ``overnight train recommender --preset small`` unless told otherwise. A user is answered from
    their ratings alone, so one who comes later needs no training (``fold_in``).

    Users and items without a training rating are answered by what is left: μ + b_i + b_u without the biases of what is
    not known. It is flagged by an ``UnknownIdWarning``, or by ``return_known``.

    Args:
        hidden, dropout, activation, last_activation, tied, biases, damping, normalized, implicit: of the net.
        divisor: ratings are divided by it for the net (its ``scale``).
        hide: probability with which a rating is hidden from the net while it trains.
        score: train on ``all`` ratings or on the ``hidden`` ones.
        refeeding, repetitions, refeeding_weight, dense_items: dense re-feeding (``overnight.tasks.recommendation``).
        batch_size: users of an update.
        lr, weight_decay: of AdamW; the rate falls by a cosine, and biases do not decay.
        epochs: passes over the users.
        duplicates: where a user rated an item more than once: ``error``, ``last`` or ``mean``.
        scale: lowest and highest rating there may be; ``predict`` stays within them.
        bounded: without a scale, ``predict`` stays within the lowest and highest training rating.
        columns: names of user, item, rating and, if any, time, where they cannot be guessed.
        by: ``user``; or ``item``: a row is what all users gave one item, which often errs less and knows no new users.
        seed: of everything random.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.

    Attributes:
        users_, items_: the ids, after ``fit``.
        model_: the net.
        train_: the ratings by row.
        training_rmse_: of each epoch, over the training ratings that were scored; not of a loaded one.

    Raises:
        UserError: for ratings or settings that cannot be used; it says which.

    Example:
        >>> ratings = ["ann", "ann", "bob", "bob", "eve"], ["x", "y", "y", "z", "z"], [5, 1, 2, 4, 5]
        >>> recommender = Recommender(hidden=(4,), epochs=2).fit(ratings)
        >>> recommender.predict(["ann", "eve"], ["z", "x"]).shape
        (2,)
        >>> [found.item for found in recommender.recommend("ann", 5)]
        ['z']
        >>> len(recommender.fold_in({"x": 4}).recommend(2))
        2
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512,),
        dropout: float = 0.5,
        activation: str = "selu",
        last_activation: bool = False,
        tied: bool = False,
        biases: bool = True,
        damping: float = 10.0,
        normalized: bool = True,
        implicit: bool = True,
        bounded: bool = True,
        divisor: float = 1.0,
        hide: float = 0.3,
        score: Literal["all", "hidden"] = "hidden",
        refeeding: Literal["none", "alternating", "joint"] = "none",
        repetitions: int = 1,
        refeeding_weight: float = 1.0,
        dense_items: int | None = None,
        batch_size: int = 32,
        lr: float = 0.001,
        weight_decay: float = 1.0,
        epochs: float = 25,
        duplicates: Literal["error", "last", "mean"] = "error",
        scale: tuple[float, float] | None = None,
        columns: Sequence[str] = (),
        by: Literal["user", "item"] = "user",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.hidden, self.dropout, self.activation, self.last_activation = hidden, dropout, activation, last_activation
        self.tied, self.biases, self.damping, self.normalized, self.divisor = tied, biases, damping, normalized, divisor
        self.implicit, self.bounded = implicit, bounded
        self.hide, self.score, self.refeeding, self.repetitions = hide, score, refeeding, repetitions
        self.refeeding_weight, self.dense_items = refeeding_weight, dense_items
        self.batch_size, self.lr, self.weight_decay, self.epochs = batch_size, lr, weight_decay, epochs
        self.duplicates, self.scale, self.columns, self.by = duplicates, scale, columns, by
        self.seed, self.device = seed, device

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **settings: Any) -> Recommender:
        """Change settings.

        Raises:
            UserError: for a name that there is not.
        """
        known = self.get_params()
        for name, value in settings.items():
            if name not in known:
                raise UserError(f"A Recommender has no setting {name!r}.", f"It has: {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def fit(self, ratings: Ratings, y: None = None) -> Recommender:
        """Train.

        Args:
            ratings: (users, items, ratings) or (users, items, ratings, times) as sequences or arrays; a dict or a
                DataFrame of such columns; a path that ``overnight train recommender`` takes, of which the training
                split is used; or a ``RatingTable``.
            y: not used.
        """
        splits = training_ratings(ratings, self._settings())
        net, rmses = fit_autoencoder(
            splits.train,
            model={
                "hidden": tuple(self.hidden),
                "dropout": self.dropout,
                "activation": self.activation,
                "last_activation": self.last_activation,
                "tied": self.tied,
                "biases": self.biases,
                "damping": self.damping,
                "scale": self.divisor,
                "normalized": self.normalized,
                "implicit": self.implicit,
                "bounds": self.scale or (splits.train.bounds if self.bounded else None),
            },
            task={
                "refeeding": self.refeeding,
                "repetitions": self.repetitions,
                "weight": self.refeeding_weight,
                "score": self.score,
                "dense_items": self.dense_items,
            },
            hide=self.hide,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            seed=self.seed,
            device=self._device(),
        )
        self.training_rmse_ = rmses
        return self._take(net, splits.train, splits.users, splits.items)

    def predict(self, users: Sequence[Any], items: Sequence[Any], *, return_known: bool = False) -> Any:
        """The rating [N] that each user would give the item beside it, float64.

        Args:
            users, items: ids, N of each.
            return_known: give a pair: these, and for each whether user and item both have training ratings; then there
                is no warning.
        """
        answers = self._answers()
        if isinstance(users, (str, bytes)) or isinstance(items, (str, bytes)) or len(users) != len(items):
            raise UserError("predict takes as many users as items.", "Give two sequences of ids, a pair at each place.")
        user_N, item_N = places(self.users_, users, "user"), places(self.items_, items, "item")
        row_N, column_N = (user_N, item_N) if self.by == "user" else (item_N, user_N)
        found_N = answers.cells(row_N, column_N)
        return told(found_N, (user_N >= 0) & (item_N >= 0), self._bounds, return_known)

    def recommend(self, user: Any, n: int = 10, *, exclude_seen: bool = True) -> list[Recommendation]:
        """The n items that a user would rate highest, the best first.

        Args:
            user: an id; one without training ratings gets what all like best, and a warning.
            n: at most so many.
            exclude_seen: leave out what the user has rated.
        """
        answers = self._answers()
        place = int(places(self.users_, [user], "user")[0])
        if place < 0:
            flag(f"User {user} has no training rating")
            scores = answers.of_biases(len(self.items_), rows=self.by == "item")
            return ranked(scores, self.items_, n, None, self._bounds)
        by_user = self.by == "user"
        scores = answers.row(gather(self.train_, np.array([place]))) if by_user else answers.column(place)
        seen = (answers.seen_in_row if by_user else answers.seen_in_column)(place) if exclude_seen else None
        return ranked(scores, self.items_, n, seen, self._bounds)

    def fold_in(self, ratings: Mapping[Any, float] | tuple[Sequence[Any], Sequence[Any]]) -> FoldedUser:
        """A user who is not in training, known by these ratings alone; nothing is trained.

        Args:
            ratings: {item: rating}, or (items, ratings). Items without a training rating say nothing, and are flagged.

        Raises:
            UserError: for ratings that cannot be used, or a net with a row for each item.
        """
        answers = self._answers()
        if self.by != "user":
            raise UserError(
                "This net has a row for each item, and knows no users but those it was trained on.",
                "Train one by user (by='user', or overnight train recommender --by user).",
            )
        given = (list(ratings), list(ratings.values())) if isinstance(ratings, Mapping) else ratings
        return FoldedUser(answers, self.items_, given, self.scale)

    def save(self, path: str | Path) -> Path:
        """Write a folder that ``load`` reads: net, ids and training ratings.

        Raises:
            UserError: if it holds something else, or cannot be written.
        """
        from overnight.recommend.storage import save

        self._answers()
        return save(self, Path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        data: str | Path | None = None,
        checkpoint: str = "best",
        device: str = "auto",
    ) -> Recommender:
        """One that ``save`` or ``overnight train recommender`` wrote; ``fit`` would train it anew.

        Args:
            path: the folder.
            data: of a run, where the ratings are now, if they were moved.
            checkpoint: of a run: ``best``, ``last`` or a step.
            device: where to compute.

        Raises:
            UserError: if the folder is neither, is damaged, or the ratings are not those of the run.
        """
        from overnight.recommend.storage import load

        return load(Path(path), data, checkpoint, device)

    def _settings(self) -> RatingSettings:
        return RatingSettings(
            columns=tuple(self.columns),
            duplicates=self.duplicates,
            scale=None if self.scale is None else (float(self.scale[0]), float(self.scale[1])),
            test=0.0,
            by=self.by,
        )

    def _take(self, net: RatingAutoencoder, train: RatingMatrix, rows: Ids, columns: Ids) -> Recommender:
        self.model_, self.train_ = net, train
        self.users_, self.items_ = (rows, columns) if self.by == "user" else (columns, rows)
        self._answering = Answers(net, train)
        return self

    @property
    def _bounds(self) -> tuple[float, float] | None:
        return self.model_.bounds or self.scale

    def _answers(self) -> Answers:
        if not hasattr(self, "_answering"):
            raise UserError("This Recommender is not fitted.", "Call fit(ratings) first, or Recommender.load(path).")
        return self._answering

    def _device(self) -> torch.device:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device!r} is not known.", "Choose auto, cpu or cuda.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("There is no CUDA device that torch can use.", "Use device='cpu'.")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")
