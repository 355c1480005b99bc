"""What the recipes that fine-tune BERT share: the run that they begin with."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.data.masked import MaskedCorpus
    from overnight.train.components import Component

SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_position")


@dataclass(frozen=True)
class Pretrained:
    """A run of ``overnight train bert``.

    Attributes:
        run: its folder.
        corpus: what it was trained on, whose word pieces are taken.
        sizes: of its model, as keyword arguments.
        notes: what there is to say of it.
    """

    run: Path
    corpus: "MaskedCorpus"
    sizes: dict[str, Any]
    notes: tuple[str, ...]

    def start(self) -> "Component":
        """What puts its encoder's weights into a model."""
        from overnight.train.start import from_run

        return partial(from_run, run=str(self.run.resolve()), optimizer_state=False, only="network.bert.")


def read_pretrained(run: Path, length: int) -> Pretrained:
    """A run to fine-tune on sequences of ``length`` word pieces.

    Raises:
        UserError: if it is no run of bert, has no checkpoint, its corpus is gone or has other word pieces, or sequences
            are longer than its positions.
    """
    from overnight.data.masked import MaskedCorpus
    from overnight.models.bert import check_length, transformers
    from overnight.train.checkpoint import choose_checkpoint, read_run_json

    transformers()
    said = read_run_json(run)
    if said["run"].get("recipe") != "bert":
        raise UserError(f"{run} is a run of {said['run'].get('recipe')}, not of bert.", "Name a pre-trained BERT.")
    choose_checkpoint(run, "last")
    before: dict[str, Any] = said["run"]["model"]["kwargs"]
    check_length(length, before["max_position"])
    data: dict[str, Any] = said["run"]["data"]["kwargs"]
    corpus = MaskedCorpus(data["corpus"])
    if corpus.vocabulary_digest != said.get("derived", {}).get("vocabulary_digest"):
        raise UserError(f"The word pieces of {corpus.folder} are not those of {run}.", "Restore the run's corpus.")
    notes = []
    trained = int(data.get("length", length))
    if said["run"].get("start") is None and trained < length:
        notes.append(
            f"{run} was trained on sequences of {trained} word pieces: its positions beyond have their initial values; "
            "phase 2 trains them"
        )
    return Pretrained(run, corpus, {name: before[name] for name in SIZES}, tuple(notes))
