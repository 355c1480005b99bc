"""Quality against batch as a picture."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.batch_study.applications import APPLICATIONS
from overnight.errors import UserError

COLOURS = {
    "lars": "#0072b2", "lamb": "#d55e00", "momentum": "#009e73", "momentum:linear": "#7fceb9", "adamw": "#555555",
}  # fmt: skip
TITLES = {
    "cifar": "ResNet-8 on CIFAR-10 (JPEG)", "mnist": "AlexNet-BN on MNIST", "bert": "BERT-tiny: hidden pieces",
    "sst2": "SST-2 after fine-tuning",
}  # fmt: skip


def plot(cells: list[dict[str, Any]], path: Path) -> None:
    """A panel for each application: seeds as dots, their mean as a line.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("A plot needs matplotlib.", "Install it: pip install 'overnight[report]'") from None
    grid = [cell for cell in cells if not cell["tuning"]]
    names = [name for name in (*APPLICATIONS, "sst2") if any(cell["application"] == name for cell in grid)]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        own = [cell for cell in grid if cell["application"] == name]
        for arm, colour in COLOURS.items():
            mine = [cell for cell in own if cell["arm"] == arm]
            batches = sorted({cell["batch"] for cell in mine})
            scores = {
                batch: [100 * (0 if cell["diverged"] else cell["score"]) for cell in mine if cell["batch"] == batch]
                for batch in batches
            }
            axis.plot(batches, [statistics.mean(scores[batch]) for batch in batches], color=colour, label=arm, lw=1.6)
            for batch, found in scores.items():
                axis.plot([batch] * len(found), found, "o", color=colour, ms=3.5)
        for cell in own:
            if cell["arm"] == "none":
                axis.axhline(100 * cell["score"], color="black", lw=0.8, ls=":")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({cell["batch"] for cell in own if cell["batch"]}))
        axis.set_xticklabels([f"{cell:,}" for cell in sorted({cell["batch"] for cell in own if cell["batch"]})])
        axis.minorticks_off()
        axis.set(title=TITLES[name], xlabel="batch" if name != "sst2" else "batch of pre-training")
        axis.grid(color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("accuracy, % (0: diverged)")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
