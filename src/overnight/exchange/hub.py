"""The layout of a model on the Hugging Face hub: ``model.safetensors``, ``config.json`` and ``README.md``.

The tensors have ByteLM's own names. ``config.json`` holds sizes and origins, no import paths: nothing in such a folder
can name code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import overnight
from overnight.errors import UserError
from overnight.evaluate.load import ByteModel
from overnight.exchange.assembly import checked, model_of, shapes
from overnight.models.byte_lm import BYTES, ByteLM

FORMAT = "overnight-model/1"
MOST_LAYERS = 1000
FIELDS = ("hidden_size", "embedding_size", "layers")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: the recipe, step and bytes of its training, as far as they are known."""

    recipe: str | None = None
    step: int = 0
    tokens: int | None = None


def digest_of(model: ByteLM) -> str:
    """The identity of the weights (see ``ByteModel.digest``)."""
    return ByteModel(model, torch.device("cpu"), {}, 0, None).digest


def write_hub(model: ByteLM, origin: Origin, folder: Path) -> None:
    """Write the weights and the configuration; the card is ``overnight.exchange.card``'s."""
    gates: Any = model.layers[0].gates
    config = {
        "format": FORMAT,
        "model_type": "overnight-byte-lm",
        "architectures": ["ByteLM"],
        "vocab_size": BYTES,
        "hidden_size": model.hidden_size,
        "embedding_size": model.embedding.embedding_dim,
        "layers": len(model.layers),
        "weight_norm": gates.weight_norm,
        "digest": digest_of(model),
        "recipe": origin.recipe,
        "step": origin.step,
        "tokens": origin.tokens,
        "overnight": overnight.__version__,
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_hub(folder: Path) -> tuple[ByteLM, Origin]:
    """The model of such a folder, and where it comes from.

    Raises:
        UserError: if a file is missing or damaged, the configuration is of another model, a tensor is missing, unknown,
            of the wrong shape or not finite, or the weights are not those that the configuration was written with.
    """
    config = _config(folder / "config.json")
    sizes: dict[str, Any] = {name: config.get(name) for name in FIELDS}
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{folder / 'config.json'} has {name}={value!r}.", "It must be a whole number above 0.")
    if sizes["layers"] > MOST_LAYERS:
        raise UserError(f"{folder / 'config.json'} has layers={sizes['layers']:,}.", "Get the file again.")
    expected = shapes(**sizes, weight_norm=config.get("weight_norm") is not False)
    file = folder / "model.safetensors"
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Get the file again.") from error
    for names, problem in ((expected.keys() - found, "has no"), (found.keys() - expected, "holds the unknown")):
        if names:
            raise UserError(
                f"{file} {problem} {', '.join(sorted(names)[:5])}.", "Give the weights that config.json describes."
            )
    because = "with the sizes of config.json"
    state = {name: checked(f"{name} of {file}", found[name], expected[name], because) for name in expected}
    model = model_of(state)
    if config.get("digest") not in (None, digest_of(model)):
        raise UserError(f"{file} is not the file that config.json was written with.", "Get both again.")
    step, tokens = (config.get(name) for name in ("step", "tokens"))
    recipe = config.get("recipe")
    return model, Origin(
        recipe if isinstance(recipe, str) else None,
        step if isinstance(step, int) and step >= 0 else 0,
        tokens if isinstance(tokens, int) and tokens >= 0 else None,
    )


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Get the file again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") or config.get("model_type") if isinstance(config, dict) else None
        raise UserError(
            f"{file} describes {found or 'another kind of model'}, not {FORMAT}.",
            "Give a folder that overnight export --to safetensors wrote.",
        )
    return config
