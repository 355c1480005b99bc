"""A run's model → files that other programs read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import overnight
from overnight.errors import UserError
from overnight.evaluate.load import ByteModel, load_byte_model
from overnight.exchange.card import card
from overnight.exchange.check import TOLERANCE, accept, difference, of_model
from overnight.exchange.folder import new_folder
from overnight.exchange.hub import Origin, read_hub, write_hub
from overnight.exchange.published import read_published, write_published

FORMATS = ("safetensors", "npy", "onnx", "torch", "transformers")


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        step: of the checkpoint.
        bytes: of all files.
        differences: the largest absolute difference to the original in logits and states, by what was run.
    """

    step: int
    bytes: int
    differences: Mapping[str, float]


def export_model(run: str | Path, to: str, out: str | Path, which: str = "best") -> Exported:
    """Write a run's model to a new folder, read it back, and compare what it computes with the original.

    Args:
        run: the run folder.
        to: ``safetensors`` (Hugging Face hub layout), ``npy`` (the published arrays), ``onnx`` or ``torch``
            (``torch.export``); or, of a BERT, ``transformers``.
        out: the folder to make.
        which: ``best``, ``last`` or a step.

    Raises:
        UserError: if the run, checkpoint or format cannot be used, a library is missing, ``out`` exists or cannot be
            written, or the export computes something else; ``out`` is not made then.
    """
    run, out = Path(run), Path(out)
    if to not in FORMATS:
        raise UserError(f"{to!r} is not a format.", f"Choose one of {', '.join(FORMATS)}.")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    if to == "transformers":
        from overnight.exchange.bert import write_bert

        with new_folder(out) as aside:
            step, differences = write_bert(run, aside, which)
            size = sum(file.stat().st_size for file in aside.iterdir())
        return Exported(step, size, differences)
    if to == "onnx":
        from overnight.exchange.onnx_program import required_libraries

        required_libraries()
    loaded = load_byte_model(run, which, "cpu")
    with new_folder(out) as aside:
        differences = _write(loaded, run, to, aside)
        size = sum(file.stat().st_size for file in aside.iterdir())
    return Exported(loaded.step, size, differences)


def _write(loaded: ByteModel, run: Path, to: str, folder: Path) -> dict[str, float]:
    model = loaded.model
    if to == "safetensors":
        tokens = _tokens(run, loaded.step)
        write_hub(model, Origin(loaded.run.get("recipe"), loaded.step, tokens), folder)
        (folder / "README.md").write_text(card(loaded, run, tokens), encoding="utf-8")
        again, _ = read_hub(folder)
        return {"model.safetensors": accept("model.safetensors", difference(model, of_model(again)), 0.0)}
    if to == "npy":
        write_published(model, folder)
        gates: Any = model.layers[0].gates
        apart = difference(model, of_model(read_published(folder)))
        return {"the arrays": accept("What the arrays hold", apart, 0.0 if gates.weight_norm else TOLERANCE)}
    if to == "torch":
        from overnight.exchange.program import write_programs as write
    else:
        from overnight.exchange.onnx_program import write_onnx as write
    differences = write(model, folder)
    (folder / "export.json").write_text(json.dumps(_described(loaded, differences), indent=2) + "\n", encoding="utf-8")
    return differences


def _described(loaded: ByteModel, differences: Mapping[str, float]) -> dict[str, Any]:
    """What the files of a program take and give, and how they were checked."""
    model = loaded.model
    state = ["batch", len(model.layers), model.hidden_size]
    files = {}
    for name, largest in differences.items():
        text = ["time", "batch"] if name.startswith("window") else ["batch"]
        files[name] = {
            "inputs": {"ids": ["int64", text], "h": ["float32", state], "c": ["float32", state]},
            "outputs": {
                "logits": ["float32", [*text, 256]],
                "h_next": ["float32", state],
                "c_next": ["float32", state],
            },
            "largest_difference": largest,
        }
    return {
        "format": "overnight-export/1",
        "overnight": overnight.__version__,
        "torch": str(torch.__version__),
        "recipe": loaded.run.get("recipe"),
        "step": loaded.step,
        "digest": loaded.digest,
        "files": files,
    }


def _tokens(run: Path, step: int) -> int | None:
    """Bytes that a checkpoint had been trained on; its digests have been checked by now."""
    state = json.loads((run / "checkpoints" / f"{step:08d}" / "state.json").read_text(encoding="utf-8"))
    tokens = state.get("tokens")
    return tokens if isinstance(tokens, int) else None
