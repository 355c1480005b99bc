"""What dense re-feeding, depth, activation and the batch do."""

import math
from dataclasses import replace
from typing import Any

from benchmarks.recommender.cells import Cell, Cells
from benchmarks.recommender.nets import Setting, fit
from benchmarks.recommender.sets import generated, splits
from overnight.evaluate.ratings import evaluate_ratings, fixed_point_residual
from overnight.recipes.dial import scaled
from overnight.recipes.recommender import PRESETS, Preset
from overnight.scaling import Hyperparameters

PAPER = replace(PRESETS["netflix"], schedule="constant", refeeding="none")
RATES = (0.001, 0.005, 0.02)
LADDER = (128, 512, 2048, 8192)
ACTIVATIONS = ("selu", "elu", "lrelu", "relu", "relu6", "sigmoid", "tanh")


def refeeding(cells: Cells, epochs: int, seed: int) -> None:
    """The paper's ablation on ML-100K's u1: its net, with and without re-feeding, at rates that stay."""
    for lr in RATES:
        for how in ("none", "alternating"):
            key = {"part": "refeeding", "refeeding": how, "lr": lr, "epochs": epochs, "seed": seed}
            preset = replace(PAPER, lr=lr, refeeding=how, epochs=epochs)
            cells.add(key, lambda preset=preset: _u1(Setting(preset), seed))  # type: ignore[misc]


def shapes(cells: Cells, epochs: int, seed: int) -> None:
    """Layers of 128 units, then the activations of four such layers; such narrow ones without dropout."""
    narrow = replace(PAPER, dropout=0.0, epochs=epochs)
    for layers in (1, 2, 3, 4, 5):
        preset = replace(narrow, hidden=(128,) * layers)
        key = {"part": "depth", "layers": 2 * layers, "epochs": epochs, "seed": seed}
        cells.add(key, lambda preset=preset: _u1(Setting(preset), seed))  # type: ignore[misc]
    for name in ACTIVATIONS:
        # a range narrower than the ratings' needs a last layer without one (the paper's section 2)
        preset = replace(narrow, hidden=(128, 128), last_activation=name not in ("sigmoid", "tanh", "relu6"))
        key = {"part": "activation", "activation": name, "epochs": epochs, "seed": seed}
        cells.add(key, lambda preset=preset, name=name: _u1(Setting(preset, activation=name), seed))  # type: ignore[misc]


def ladder(cells: Cells, epochs: int, seed: int, users: int = 20_000) -> None:
    """The small preset, narrower, on generated ratings of 20,000 users: equal samples at each batch, no tuning."""
    found = generated(users, 1000, 40)
    base = replace(PRESETS["small"], hidden=(64,), dropout=0.0, batch_size=128, epochs=epochs, lr=0.002)
    for batch in LADDER:
        for rule in ("sqrt",) if batch == LADDER[0] else ("sqrt", "linear", "none"):
            lr = scaled(Hyperparameters(lr=base.lr, global_batch_size=base.batch_size), batch, rule, None)[0].lr
            # the decay of a whole run, Σ lr · weight_decay, is that of the base run
            decay = base.weight_decay * base.lr * batch / base.batch_size / lr
            key = {"part": "ladder", "batch": batch, "rule": rule, "epochs": epochs, "seed": seed}
            preset = replace(base, batch_size=batch, lr=lr, weight_decay=decay)
            cells.add(key, lambda preset=preset: _scored(Setting(preset), found, seed))  # type: ignore[misc]


def _u1(setting: Setting, seed: int) -> Cell:
    return _scored(setting, splits("ml-100k u1", "test"), seed)


def _scored(setting: Setting, found: Any, seed: int) -> Cell:
    net = fit(found.train, setting, seed)
    rmse = evaluate_ratings(net, found.train, found.test).rmse
    residual = fixed_point_residual(net, found.train)
    return {"rmse": rmse if math.isfinite(rmse) else None, "residual": residual if math.isfinite(residual) else None,
            "lr": setting.preset.lr, "preset": _plain(setting.preset)}  # fmt: skip


def _plain(preset: Preset) -> dict[str, Any]:
    return {name: getattr(preset, name) for name in ("hidden", "dropout", "batch_size", "optimizer", "weight_decay")}
