"""`overnight export RUN --to FORMAT --out PATH`: a run's model in a format that other programs read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Export:
    """Write a run's model in a format that other programs read, and check it against the original.

    safetensors is the layout of the Hugging Face hub, with a model card; npy the fifteen published arrays; onnx and
    torch (torch.export) hold one step and a window of any length, for any batch; transformers is for runs of bert, and
    is what its from_pretrained reads.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train or overnight import wrote."""
    to: Annotated[Literal["safetensors", "npy", "onnx", "torch", "transformers"], tyro.conf.arg(help_behavior_hint="")]
    """The format; onnx needs the extra export."""
    out: Annotated[Path, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
    """The folder to make."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run or its checkpoint cannot be used, a library is missing, the folder exists, or the export
            does not compute what the model does.
    """
    options = tyro.cli(Export, args=argv, prog="overnight export")

    from overnight.exchange import export_model

    made = export_model(options.run, options.to, options.out, options.checkpoint)
    print(f"{options.out}: step {made.step:,}, {made.bytes:,} bytes")
    for name, largest in made.differences.items():
        print(f"{name}: run against the original, largest difference {largest:.3g}")
    return 0
