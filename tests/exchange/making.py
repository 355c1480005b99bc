"""Weights in the published layouts, drawn at random, and runs to export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from overnight.models.byte_lm import ByteLM
from overnight.train.checkpoint import Checkpoint, save_checkpoint

Array = npt.NDArray[np.float32]
TEXT = list("\n The naïve café's café: 5 stars \x00ÿ ".encode())


def arrays(width: int, hidden: int, seed: int = 0) -> list[Array]:
    """0.npy … 14.npy of a model with gates that matter: every number has a share in the output."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return draw.standard_normal(shape).astype(np.float32)

    gates = 4 * hidden
    gains = [np.abs(normal(size)) + np.float32(0.5) for size in (gates, gates, hidden, hidden)]
    return [
        normal(256, width),
        normal(width, gates),
        *(normal(hidden, hidden) for _ in range(4)),
        normal(width, hidden),
        normal(hidden, hidden),
        normal(gates),
        *gains,
        normal(hidden, 256),
        normal(256),
    ]


def write_arrays(folder: Path, found: list[Array]) -> Path:
    folder.mkdir(parents=True)
    for index, array in enumerate(found):
        np.save(folder / f"{index}.npy", array)
    return folder


def reference_state(
    width: int,
    hidden: int,
    layers: int = 1,
    weight_norm: bool = False,
    bias: bool = True,
    tokens: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """A nested state dict as RNNModel of sentiment-discovery saves it."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws) * 0.7

    cell: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        below = hidden if layer else width
        sizes = {"w_ih": (4 * hidden, below), "w_hh": (4 * hidden, hidden)}
        sizes |= {"w_mih": (hidden, below), "w_mhh": (hidden, hidden)}
        for name, (rows, columns) in sizes.items():
            if weight_norm:
                cell[f"rnns.{layer}.{name}_g"] = normal(rows, 1).abs() + 0.5
                cell[f"rnns.{layer}.{name}_v"] = normal(rows, columns)
            else:
                cell[f"rnns.{layer}.{name}"] = normal(rows, columns) / columns**0.5  # larger ones make it chaotic
        for name in ("b_ih", "b_hh") if bias else ():
            # whole multiples of 2⁻⁸: the sum of the two, which an import keeps, is then exact
            cell[f"rnns.{layer}.{name}"] = (normal(4 * hidden) * 256).round() / 256
    return {
        "encoder": {"encoder": {"weight": normal(tokens, width)}, "rnn": cell},
        "decoder": {"weight": normal(tokens, hidden), "bias": normal(tokens)},
    }


def model_of(**settings: Any) -> ByteLM:
    """A model whose every parameter is random, biases and gains too."""
    torch.manual_seed(3)
    model = ByteLM(**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "weight_g")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval().requires_grad_(False)


def write_run(folder: Path, step: int = 7, **settings: Any) -> Path:
    """A run folder with one checkpoint of ``model_of(**settings)``."""
    folder.mkdir(parents=True)
    model = {"call": "overnight.models.byte_lm.ByteLM", "kwargs": settings}
    record = {"format": "overnight-run/1", "recipe": "byte-lm", "run": {"model": model}}
    (folder / "run.json").write_text(json.dumps(record))
    state = {"step": step, "tokens": 4096 * step, "best": None}
    checkpoint = Checkpoint(model_of(**settings).state_dict(), {}, {}, {}, state)
    save_checkpoint(folder / "checkpoints", checkpoint, keep_last=1)
    return folder


def snapshot(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
