"""`overnight doctor`: what this machine has, and what training will choose on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has: cores, memory, disk, accelerators, instruction sets, matrix rates, optional libraries;
    which precision and which recurrence training will use, and why not the others."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of tables."""
    measure: bool = True
    """Time matrix products, which takes about a second."""
    folder: Path = Path()
    """Where runs would be written: its free disk is reported."""


def main(argv: list[str]) -> int:
    """Parse the arguments, examine, print."""
    options = tyro.cli(Doctor, args=argv, prog="overnight doctor")

    from overnight.doctor import examine
    from overnight.errors import UserError

    if not options.folder.is_dir():
        raise UserError(f"{options.folder} is not a folder.", "Name one that exists with --folder.")
    found = examine(options.folder, options.measure)
    if options.json:
        import sys

        import orjson

        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        from rich.console import Console

        from overnight.doctor.page import show

        show(found, Console())
    return 0
