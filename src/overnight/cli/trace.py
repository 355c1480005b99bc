"""`overnight trace RUN TEXT --unit N`: what one unit of a trained model makes of a text, byte by byte."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Trace:
    """What one unit of a trained model makes of a text: its cell state after every byte.

    A terminal shows the text in colours, orange where the unit is below zero and blue above; elsewhere each byte has a
    line of its number, its hexadecimal value, its character and the unit's value, with tabs between them. The text is
    read as "\\n " + text + " " with HTML entities replaced.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train wrote."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
    """The text; - reads standard input."""
    unit: int
    """Which unit, from 0."""
    layer: int = -1
    """Of which layer; 0 is the lowest, -1 the highest."""
    scale: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(default: the largest value, signs aside)")] = None
    """The value that has the full colour."""
    color: Literal["auto", "always", "never"] = "auto"
    """Colours; auto is on a terminal, unless NO_COLOR is set."""
    png: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also draw the text in the same colours into this picture."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run cannot be used, or the unit or a setting is out of its range.
    """
    options = tyro.cli(Trace, args=argv, prog="overnight trace")

    from overnight.cli.heat import characters, heat_lines
    from overnight.cli.terminal import without_controls
    from overnight.errors import UserError
    from overnight.evaluate.load import load_byte_model

    if options.scale is not None and not options.scale > 0:
        raise UserError(f"--scale {options.scale} gives no colour.", "Give a number above 0.")
    model = load_byte_model(options.run, options.checkpoint, options.device)
    # An argument that is no UTF-8 reaches Python with its bytes escaped; framing gives them back.
    trace = model.trace(
        sys.stdin.buffer.read() if options.text == "-" else options.text, options.unit, layer=options.layer
    )
    values = trace.values.tolist()
    if options.png:
        from overnight.report.heat_png import write_heat_png

        cells = list(characters(trace.bytes, values))
        shown = "".join(character for character, _ in cells)
        title = f"unit {options.unit} of {options.run.name}"
        write_heat_png(options.png, [(shown, [value for _, value in cells])], scale=options.scale, title=title)
    out = sys.stdout
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="replace")
    coloured = out.isatty() and "NO_COLOR" not in os.environ if options.color == "auto" else options.color == "always"
    if not coloured:
        for number, (byte, value) in enumerate(zip(trace.bytes, values, strict=True)):
            shown = chr(byte) if 32 <= byte < 127 else ""
            out.write(f"{number}\t{byte:02x}\t{shown}\t{value:.6g}\n")
        return 0
    low, high = min(values), max(values)
    scale = options.scale or max(-low, high)
    out.write(without_controls(f"unit {options.unit}: {low:.4g} to {high:.4g}, full colour at ±{scale:.4g}\n"))
    width = max(2, shutil.get_terminal_size().columns)
    for line in heat_lines(characters(trace.bytes, values), scale, width):
        out.write(line + "\n")
    return 0
