"""A trained byte model, ready to be used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM


@dataclass(frozen=True)
class ByteModel:
    """A model on ``device``, in evaluation mode, without gradients; and where it comes from.

    Attributes:
        run: the content of run.json.
        step: of the checkpoint.
        corpus: the folder it was trained on, if the run says so.
    """

    model: ByteLM
    device: torch.device
    run: dict[str, Any]
    step: int
    corpus: Path | None


def load_byte_model(run: Path, which: str = "best", device: str = "auto") -> ByteModel:
    """Load a checkpoint of a run folder for inference.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or a step.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        UserError: if the folder is no run, has no such checkpoint, the checkpoint is damaged or of another
            architecture, the model reads no bytes, or the device is not there.
    """
    from overnight.train.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    loaded = load_model(run, which)
    if not isinstance(loaded.model, ByteLM):
        raise UserError(
            f"{run} holds a {type(loaded.model).__name__}, not a byte language model.",
            "Give a run of a byte language model.",
        )
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model = loaded.model.to(chosen).eval().requires_grad_(False)
    return ByteModel(model, chosen, loaded.run, loaded.step, loaded.corpus)
