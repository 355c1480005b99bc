"""Published weights → a run folder."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import overnight
from overnight.errors import UserError
from overnight.exchange.folder import new_folder
from overnight.exchange.hub import Origin, digest_of, read_hub
from overnight.exchange.published import FILES, read_published
from overnight.exchange.reference import read_reference
from overnight.models.byte_lm import ByteLM
from overnight.train.checkpoint import Checkpoint, save_checkpoint
from overnight.train.folder import write_json
from overnight.train.run import FORMAT


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        layout: of the source, in words.
        hidden_size, embedding_size, layers, parameters: the model's sizes.
        digest: sha256 of the weights.
    """

    layout: str
    hidden_size: int
    embedding_size: int
    layers: int
    parameters: int
    digest: str


def import_model(source: str | Path, out: str | Path, command: Sequence[str] = ()) -> Imported:
    """Make a run folder of a model in another layout, which is recognised by its files.

    Args:
        source: a folder with 0.npy … 14.npy, a folder with model.safetensors and config.json, or a PyTorch checkpoint
            of the reference code.
        out: the run folder to make.
        command: for run.json: argv, where there is one.

    Raises:
        UserError: if the source is of no known layout, incomplete, damaged, or ``out`` exists or cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    model, origin, layout = _read(source)
    settings = {
        "hidden_size": model.hidden_size,
        "embedding_size": model.embedding.embedding_dim,
        "layers": len(model.layers),
    }
    gates: Any = model.layers[0].gates
    parameters, digest = sum(parameter.numel() for parameter in model.parameters()), digest_of(model)
    record = {
        "format": FORMAT,
        "overnight": overnight.__version__,
        "recipe": origin.recipe or "import",
        "command": list(command),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "launch": None,
        "resumed_at": [],
        "run": {
            "model": {
                "call": "overnight.models.byte_lm.ByteLM",
                "kwargs": {**settings, "weight_norm": gates.weight_norm},
            }
        },
        "derived": {"imported_from": source.name, "layout": layout, "parameters": parameters, "digest": digest},
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
        },
    }
    place = {"step": origin.step, "samples": None, "tokens": origin.tokens, "seconds": None, "skipped": 0, "best": None}
    ended = {"state": "finished", "reason": f"Imported from {source.name} ({layout})."}
    with new_folder(out) as aside:
        save_checkpoint(aside / "checkpoints", Checkpoint(model.state_dict(), {}, {}, {}, place), keep_last=1)
        write_json(aside / "run.json", record)
        write_json(aside / "summary.json", {**ended, **place, "signal": None, "final": None, "baselines": []})
    return Imported(layout, **settings, parameters=parameters, digest=digest)


def _read(source: Path) -> tuple[ByteLM, Origin, str]:
    if not source.exists():
        raise UserError(f"{source} does not exist.", "Give a folder of arrays or a checkpoint.")
    if source.is_file():
        if source.suffix in (".npy", ".safetensors", ".json"):
            raise UserError(f"{source} is one file of several.", f"Give the folder: {source.parent}.")
        return read_reference(source), Origin(), "sentiment-discovery checkpoint"
    if any((source / name).is_file() for name in FILES):
        return read_published(source), Origin(), "npy arrays"
    if (source / "config.json").is_file():
        return *read_hub(source), "safetensors"
    if (source / "run.json").is_file():
        raise UserError(f"{source} is a run folder already.", "Use it as it is.")
    raise UserError(
        f"{source} is of no known layout.",
        "Known are 0.npy to 14.npy, model.safetensors with config.json, and checkpoints (.pt) of sentiment-discovery.",
    )
