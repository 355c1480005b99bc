"""`overnight report RUN... [--out FILE]`: one self-contained page that shows a run or compares several."""

from pathlib import Path
from typing import Annotated

import tyro


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...", help_behavior_hint="")],
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help_behavior_hint="(default: RUN/report/index.html for one run, ./overnight-report.html for several)",
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page that shows a run or compares several.

    Args:
        runs: The folders that overnight train wrote; a run may still be going.
        out: The file to write.
    """
    from overnight.report import write_report

    print(f"report: {write_report(runs, out)}")


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: a run cannot be read or the page cannot be written.
    """
    tyro.cli(report, prog="overnight report", args=argv)
    return 0
