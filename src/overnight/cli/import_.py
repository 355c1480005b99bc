"""`overnight import SOURCE --out RUN`: published weights → a run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Import:
    """Make a run folder of a trained byte model from elsewhere, for generate, evaluate, features and the rest.

    The layout is recognised: a folder with the published arrays 0.npy to 14.npy, a folder with model.safetensors and
    config.json as overnight export writes it, or a PyTorch checkpoint (.pt) of NVIDIA/sentiment-discovery.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")]
    """The folder or the checkpoint file."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The run folder to make."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the source is of no known layout, incomplete or damaged, or the run folder exists.
    """
    options = tyro.cli(Import, args=argv, prog="overnight import")

    from overnight.exchange import import_model

    made = import_model(options.source, options.out, ("overnight", "import", *argv))
    layers = f" in {made.layers} layers" if made.layers > 1 else ""
    print(
        f"{made.layout}: {made.hidden_size:,} units{layers}, embedding {made.embedding_size} wide, "
        f"{made.parameters:,} parameters, digest {made.digest[:12]}"
    )
    print(f"run         {options.out}")
    print(f"generate    overnight generate {options.out}")
    return 0
