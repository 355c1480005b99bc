"""Saved recommenders: a folder of their own, or a run of `overnight train recommender`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import overnight
from overnight.data.ratings.ids import Ids
from overnight.data.ratings.loading import load_ratings
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError
from overnight.models.autoencoder import RatingAutoencoder
from overnight.train.checkpoint import load_model, load_weights, read_run_json
from overnight.train.components import from_json
from overnight.train.folder import verify_folder, write_folder

if TYPE_CHECKING:
    from overnight.data.ratings.table import RatingSplits
    from overnight.recommend.estimator import Recommender

FORMAT = "overnight-recommender/1"
HEAD = "recommender.json"


def save(recommender: Recommender, path: Path) -> Path:
    """Write the folder in one go; a recommender that is there is replaced.

    Raises:
        UserError: if the folder holds something else, or cannot be written.
    """
    if path.exists() and not (path / HEAD).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} holds something else.", "Choose another folder.")
    net, train = recommender.model_, recommender.train_
    ids = {"users": recommender.users_, "items": recommender.items_}
    head = {
        "format": FORMAT,
        "overnight": overnight.__version__,
        "settings": {**recommender.get_params(), "hidden": list(recommender.hidden)},
        "model": settings_of(net),
        "whole_ids": {kind: names.whole for kind, names in ids.items()},
    }
    columns = {"offsets": train.offsets, "items": train.items, "values": train.values}

    def fill(aside: Path) -> None:
        (aside / HEAD).write_text(json.dumps(head, indent=1, default=list) + "\n", encoding="utf-8")
        for kind, names in ids.items():
            (aside / f"{kind}.txt").write_text(names.as_text(), encoding="utf-8", newline="\n")
        save_file(
            {name: x.detach().cpu().contiguous() for name, x in net.state_dict().items()}, aside / "model.safetensors"
        )
        save_file({name: torch.from_numpy(np.array(x)) for name, x in columns.items()}, aside / "ratings.safetensors")

    write_folder(path, fill)
    return path


def settings_of(net: RatingAutoencoder) -> dict[str, Any]:
    """What a net of the same shape is made with.

    >>> net = RatingAutoencoder(5, (4, 3), biases=True, scale=2.0)
    >>> settings_of(RatingAutoencoder(**settings_of(net))) == settings_of(net)
    True
    """
    return {
        "items": net.items,
        "hidden": [net.input.shape[1], *(layer.out_features for layer in net.encoder)],
        "dropout": net.dropout,
        "activation": net.activation,
        "last_activation": net.last_activation,
        "tied": net.tied,
        "biases": net.mean is not None,
        "damping": net.damping,
        "scale": net.scale,
        "normalized": net.normalized,
        "implicit": net.implicit is not None,
        "bounds": net.bounds,
    }


def load(path: Path, data: str | Path | None, checkpoint: str, device: str) -> Recommender:
    """See ``Recommender.load``."""
    if (path / HEAD).is_file():
        return _load_saved(path, device)
    if (path / "run.json").is_file():
        return _load_run(path, data, checkpoint, device)
    raise UserError(
        f"{path} holds no recommender.", "Name a folder that Recommender.save or overnight train recommender wrote."
    )


def _load_saved(path: Path, device: str) -> Recommender:
    from overnight.recommend.estimator import Recommender

    problem = verify_folder(path)
    try:
        if problem is None:
            head: dict[str, Any] = json.loads((path / HEAD).read_text(encoding="utf-8"))
            if head["format"] != FORMAT:
                raise UserError(
                    f"{path} has format {head['format']!r}; this version reads {FORMAT!r}.", "Update overnight."
                )
            recommender = Recommender(**{**head["settings"], "device": device})
            net = RatingAutoencoder(**head["model"])
            load_weights(net, load_file(path / "model.safetensors"), path)
            arrays = {name: x.numpy() for name, x in load_file(path / "ratings.safetensors").items()}
            train = RatingMatrix(arrays["offsets"], arrays["items"], arrays["values"], None, net.items)
            users, items = (_ids(path / f"{kind}.txt", head["whole_ids"][kind]) for kind in ("users", "items"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        raise UserError(f"The recommender in {path} is damaged: {problem}.", "Restore it from a copy.")
    rows, columns = (users, items) if recommender.by == "user" else (items, users)
    return recommender._take(net.to(recommender._device()).eval(), train, rows, columns)


def _ids(file: Path, whole: bool) -> Ids:
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return Ids(np.array(lines, dtype=np.int64) if whole else lines)


def _load_run(path: Path, data: str | Path | None, checkpoint: str, device: str) -> Recommender:
    from overnight.recommend.estimator import Recommender

    settings, splits = run_ratings(path, data)
    loaded = load_model(path, checkpoint)
    if not isinstance(loaded.model, RatingAutoencoder):
        raise UserError(f"{path} holds a {type(loaded.model).__name__}, no recommender.", "Give a run of one.")
    recommender = Recommender(by=settings.by, scale=settings.scale, duplicates=settings.duplicates, device=device)
    net = loaded.model.to(recommender._device()).eval()
    return recommender._take(net, splits.train, splits.users, splits.items)


def run_ratings(path: Path, data: str | Path | None = None) -> tuple[RatingSettings, RatingSplits]:
    """The settings and splits of the ratings that a run was trained on.

    Args:
        path: the run folder.
        data: where the ratings are now, if they were moved.

    Raises:
        UserError: if it is no recommender's run, or the ratings are not there or are others.
    """
    record = read_run_json(path)
    given = record["run"].get("data", {}).get("kwargs", {})
    made = from_json(given.get("settings"))
    if not isinstance(made, partial) or made.func is not RatingSettings:
        raise UserError(f"{path} is no run of a recommender.", "Give one that overnight train recommender wrote.")
    settings: RatingSettings = made()
    splits = load_ratings(data or given["corpus"], settings, valid=given.get("valid", ""), test=given.get("test", ""))
    digest = record.get("derived", {}).get("corpus_digest")
    if digest is not None and splits.train.digest != digest:
        raise UserError(
            f"The ratings in {data or given['corpus']} are not those that {path} was trained on.",
            "Put the old ones back, or train again.",
        )
    return settings, splits
