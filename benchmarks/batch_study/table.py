"""What came of the cells, as tables of Markdown."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.batch_study.applications import APPLICATIONS

Cells = list[dict[str, Any]]


def print_tables(cells: Cells, out: Path) -> None:
    """The trials and the grid of every application, then fine-tuning."""
    for name, application in APPLICATIONS.items():
        own = [cell for cell in cells if cell["application"] == name and not cell["tuning"]]
        path = out / name / "tuned.json"
        if path.is_file():
            frozen = json.loads(path.read_text())
            print(
                f"\n{application.about}: {frozen['declared']['samples']:,} samples; rates at batch {application.base}"
            )
            for optimizer, found in frozen["optimizers"].items():
                trials = ", ".join(f"{lr}: {score:.2%}" for lr, score in sorted(found["trials"].items()))
                print(f"  {optimizer}: {found['lr']:g} of {trials}")
        if own:
            print_grid(own, [str(batch) for batch in application.batches])
    fine = [cell for cell in cells if cell["application"] == "sst2"]
    if fine:
        print("\nSST-2, test accuracy after fine-tuning, by the batch of pre-training (none: 0)")
        print_grid(fine, [str(batch) for batch in sorted({cell["batch"] for cell in fine})])


def print_grid(cells: Cells, batches: list[str]) -> None:
    """A row for each arm, a column for each batch."""
    print(f"\n| | {' | '.join(batches)} |\n|{'---|' * (len(batches) + 1)}")
    steps = {str(cell["batch"]): cell["steps"] for cell in cells}
    print(f"| steps | {' | '.join(str(steps.get(batch, '')) for batch in batches)} |")
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        row = [[cell for cell in cells if cell["arm"] == arm and str(cell["batch"]) == batch] for batch in batches]
        print(f"| {arm} | {' | '.join(map(shown, row))} |")


def shown(cells: Cells) -> str:
    """Mean over seeds, and the seeds."""
    if not cells:
        return ""
    scores = [cell["score"] for cell in cells if not cell["diverged"]]
    lost = len(cells) - len(scores)
    words = [f"{lost} diverged"] if lost else []
    if scores:
        each = f" ({', '.join(f'{100 * score:.1f}' for score in scores)})" if len(scores) > 1 else ""
        words.insert(0, f"{statistics.mean(scores):.2%}{each}")
    return ", ".join(words)
