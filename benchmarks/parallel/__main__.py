"""Time, bytes and quality of parallel training on hosts of this machine, on links of 100 Mb/s, 1 Gb/s and unthrottled.

    python -m benchmarks.parallel [--corpus DIR] [--cells PATTERN …] [--minutes 45] [--out FOLDER]
    python -m benchmarks.parallel --show

Hosts are network namespaces, so root is needed. Each runs one worker of one thread; where there are fewer cores than
workers they share them, which the results say. Asynchronous cells have one host more, for the parameter server. A cell
is a JSON file; those that are there are not measured again, so that a run that was interrupted goes on. ``--corpus`` is
a prepared folder of words with about 10,000 of them; cells of 60,000 words draw them by the counts in
OVERNIGHT_DATA/lm1b_counts.
"""

import argparse
import sys
import time
from pathlib import Path

from multihost.network import missing

from benchmarks.parallel.cells import Cell, select, sessions
from benchmarks.parallel.predict import print_predictions
from benchmarks.parallel.session import START_SECONDS, Settings, path_of, run_session
from benchmarks.parallel.table import load, print_table
from overnight.errors import UserError


def main() -> int:
    """Measure what is missing, in the time given, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parallel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=[], metavar="PATTERN", help="parts of the cells' names")
    parser.add_argument("--corpus", type=Path, default=None, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a cell of speed, beside slow steps")
    parser.add_argument("--tokens", type=int, default=600_000, help="of a training of kind tokens")
    parser.add_argument("--train-seconds", type=float, default=90.0, help="of a training of kind time")
    parser.add_argument("--minutes", type=float, default=45.0, help="after which no cell is begun")
    parser.add_argument("--tiny", action="store_true", help="models of a moment, to see that all works")
    parser.add_argument("--list", action="store_true", help="name the cells")
    parser.add_argument("--show", action="store_true", help="only print what was measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/parallel"), metavar="FOLDER")
    options = parser.parse_args()
    cells = select(options.cells)
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if not options.show:
        if (why := missing()) is not None:
            print(f"Not measured: {why}.", file=sys.stderr)
            return 2
        options.out.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            options.out, options.corpus, options.seconds, options.tokens, options.train_seconds, options.tiny
        )
        measure(cells, settings, options.minutes * 60)
    results = load(options.out)
    print_table({cell: record for cell, record in results.items() if cell in cells})
    print_predictions(results)
    return 0


def measure(cells: list[Cell], settings: Settings, seconds: float) -> None:
    """All cells that are missing, as long as there is time to begin one."""
    end = time.monotonic() + seconds
    left = [cell for cell in cells if not path_of(cell, settings.out).exists()]
    for session in sessions(left):
        if time.monotonic() > end:
            print(f"The time is up: {sum(not path_of(c, settings.out).exists() for c in cells)} cells are left.")
            return
        each = 120.0 if session[0].kind == "speed" else 900.0
        began = time.monotonic()
        run_session(session, settings, START_SECONDS + each * len(session))
        print(f"{time.monotonic() - began:>6.0f} s  {', '.join(cell.name for cell in session)}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
