"""Results that are kept: a line of JSON each, so that a stopped benchmark goes on where it was."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


class Cells:
    """The file of results.

    Args:
        path: made when the first result comes.
        seconds: after which no cell is begun.
    """

    def __init__(self, path: Path, seconds: float = math.inf) -> None:
        self.path, self.ends = path, time.monotonic() + seconds
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.all: list[Cell] = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> list[Cell]:
        """Those with these values."""
        return [cell for cell in self.all if all(cell.get(name) == value for name, value in key.items())]

    def add(self, key: Cell, measure: Callable[[], Cell]) -> None:
        """Measure what is not there, if there is time; CPU seconds are noted beside it."""
        if self.find(**key) or time.monotonic() > self.ends:
            return
        began = time.process_time()
        found = {**key, **measure(), "cpu_seconds": round(time.process_time() - began, 1)}
        self.all.append(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)
