"""A small byte model whose state matters, in memory and as a run folder."""

import json
from pathlib import Path

import torch

from overnight.evaluate.load import ByteModel
from overnight.models.byte_lm import ByteLM
from overnight.train.checkpoint import Checkpoint, save_checkpoint

SIZES = {"hidden_size": 24, "embedding_size": 8, "layers": 2}


def small_network(seed: int = 0) -> ByteLM:
    """24 units in each of two layers, with weights twice their starting size."""
    torch.manual_seed(seed)
    network = ByteLM(**SIZES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return network.eval().requires_grad_(False)


def small_model(seed: int = 0) -> ByteModel:
    """``small_network`` as it is loaded."""
    return ByteModel(small_network(seed), torch.device("cpu"), {}, 0, None)


def small_run(folder: Path, *, steps: tuple[int, ...] = (10,)) -> Path:
    """A run folder with a checkpoint of ``small_network(step)`` for each step."""
    run = {"model": {"call": "overnight.models.byte_lm.ByteLM", "kwargs": SIZES}}
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"format": "overnight-run/1", "run": run}))
    for step in steps:
        checkpoint = Checkpoint(small_network(step).state_dict(), {}, {}, {}, {"step": step, "samples": 0})
        save_checkpoint(folder / "checkpoints", checkpoint, keep_last=9)
    return folder
