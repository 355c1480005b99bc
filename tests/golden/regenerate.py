"""Write the golden losses anew: ``python tests/golden/regenerate.py [NAME …]``, all of them without a name.

Only after a change meant to move them.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.runs import RUNS, first_losses, golden_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    names = parser.parse_args().names
    for name in names:
        if name not in RUNS:
            parser.error(f"there is no run {name!r}; there are {', '.join(RUNS)}")
    for name in names or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            losses = first_losses(name, Path(folder))
        golden_file(name).write_text(json.dumps({"losses": losses}, indent=1) + "\n")
        print(name, losses)


if __name__ == "__main__":
    main()
