"""Write the golden losses anew: ``python tests/golden/regenerate.py``. Only after a change meant to move them."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.runs import RUNS, first_losses, golden_file


def main() -> None:
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            losses = first_losses(name, Path(folder))
        golden_file(name).write_text(json.dumps({"losses": losses}, indent=1) + "\n")
        print(name, losses)


if __name__ == "__main__":
    main()
