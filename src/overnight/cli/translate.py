"""`overnight translate RUN < sentences`: a line of standard input → its translation."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from overnight.cli.terminal import without_controls


@dataclass(frozen=True)
class Translate:
    """Translate standard input, a sentence a line, to standard output."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train gnmt wrote."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the run's own)")] = None
    """The corpus folder, for its vocabularies."""
    beam: int = 5
    """Hypotheses of a sentence; 1 is greedy."""
    alpha: float = 0.6
    """Length normalisation; 0 prefers short translations."""
    beta: float = 0.1
    """Coverage penalty."""
    at_once: int = 64
    """Lines that are read before they are translated; 1 answers each at once."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    precision: Literal["fp32", "auto", "bf16", "fp16"] = "fp32"
    """Number format of the products."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run, its checkpoint or its corpus cannot be used, or a setting is out of its range.
    """
    options = tyro.cli(Translate, args=argv, prog="overnight translate")

    from overnight.errors import UserError
    from overnight.evaluate.beam import Beam
    from overnight.evaluate.translation import translate_lines
    from overnight.evaluate.translator import load_translator
    from overnight.train.precision import choose_precision

    if options.at_once < 1:
        raise UserError(f"--at-once {options.at_once} cannot work.", "Give at least 1.")
    beam = Beam(options.beam, options.alpha, options.beta)
    loaded = load_translator(options.run, options.checkpoint, options.device)
    corpus = loaded.open(options.data)
    lines = (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
    found = translate_lines(
        loaded.model,
        lines,
        corpus.coder("source"),
        corpus.coder("target"),
        at_once=options.at_once,
        beam=beam,
        autocast=choose_precision(loaded.device, options.precision).dtype,
    )
    out = sys.stdout
    if hasattr(out, "reconfigure"):
        out.reconfigure(encoding="utf-8")
    for line in found:
        out.write((without_controls(line) if out.isatty() else line) + "\n")
        out.flush()
    return 0
