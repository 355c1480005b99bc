"""`overnight doctor`: what this machine has, and what training will choose on it; or what an optimizer breaks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has: cores, memory, disk, accelerators, instruction sets, matrix rates, optional libraries;
    which precision and which recurrence training will use, and why not the others. With --optimizer: which identities
    of LAMB or LARS a class keeps and breaks, and by how much; the exit code is 1 if it breaks one."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of tables."""
    measure: bool = True
    """Time matrix products, which takes about a second."""
    folder: Path = Path()
    """Where runs would be written: its free disk is reported."""
    optimizer: Annotated[str | None, tyro.conf.arg(metavar="MODULE:CLASS")] = None
    """Examine this optimizer instead, which takes some seconds."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An argument of the optimizer, such as momentum=0.95."""
    family: Literal["lamb", "lars"] | None = None
    """What the optimizer should be; guessed from the name of its class."""


def main(argv: list[str]) -> int:
    """Parse the arguments, examine, print."""
    options = tyro.cli(Doctor, args=argv, prog="overnight doctor")

    from overnight.errors import UserError

    if options.optimizer is not None:
        return _optimizer(options)
    if options.set or options.family:
        raise UserError("--set and --family are for an optimizer.", "Name it with --optimizer module:Class.")
    if not options.folder.is_dir():
        raise UserError(f"{options.folder} is not a folder.", "Name one that exists with --folder.")

    from overnight.doctor import examine
    from overnight.doctor.page import show

    found = examine(options.folder, options.measure)
    _print_json(found) if options.json else show(found, _console())
    return 0


def _optimizer(options: Doctor) -> int:
    from overnight.doctor.optimizer import conformance, find_subject
    from overnight.doctor.optimizer.page import show

    assert options.optimizer is not None
    found = conformance(find_subject(options.optimizer, options.set, options.family))
    _print_json(found) if options.json else show(found, _console())
    return 1 if found.broken else 0


def _print_json(found: Any) -> None:
    import sys

    import orjson

    written = orjson.dumps(found, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    sys.stdout.write(written.decode() + "\n")


def _console() -> Any:
    from rich.console import Console

    return Console()
