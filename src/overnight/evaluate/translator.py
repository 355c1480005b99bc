"""A trained translator, read from its run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overnight.data.pairs import PairCorpus
from overnight.errors import UserError
from overnight.models.seq2seq import GNMT


@dataclass(frozen=True)
class LoadedTranslator:
    """A translator on its device, in evaluation mode; and where it comes from."""

    model: GNMT
    device: torch.device
    run: Mapping[str, Any]
    step: int
    corpus: Path | None

    def open(self, folder: Path | None = None) -> PairCorpus:
        """The corpus in ``folder``, or the run's own; of the vocabularies that the model was trained with.

        Raises:
            UserError: if there is none, or it is of other vocabularies.
        """
        folder = folder or self.corpus
        if folder is None:
            raise UserError("The run does not say which corpus it was trained on.", "Name one with --data.")
        corpus = PairCorpus(folder)
        known = self.run.get("derived", {}).get("vocabulary_digest")
        if known not in (None, corpus.vocabulary_digest):
            raise UserError(
                f"{folder} has other vocabularies ({corpus.vocabulary_digest[:12]}) than the model "
                f"({str(known)[:12]}).",
                "Give the corpus that the run was trained on.",
            )
        return corpus


def load_translator(run: str | Path, which: str = "best", device: str = "auto") -> LoadedTranslator:
    """Load a checkpoint of a run of gnmt.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or a step.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        UserError: if the folder is no run, has no such checkpoint, its model is of another kind, or there is no such
            device.
    """
    from overnight.train.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    loaded = load_model(Path(run), which)
    model: nn.Module = loaded.model
    if not isinstance(model, GNMT):
        raise UserError(f"{run} holds a {type(model).__name__}, not a translator.", "Give a run of gnmt.")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return LoadedTranslator(model.to(chosen), chosen, loaded.run, loaded.step, loaded.corpus)
