"""The published scaling tables of large-batch training, predicted from their smallest machine by the step-time model.

    python benchmarks/scaling_table.py [--gbits 656] [--microseconds 1] [--out benchmarks/out/scaling_table.json]

No training. Of each table one row is used: its time of a step. From it the model (``overnight.scaling.step_time``,
without a fit) derives C, what one chip computes in a step, for the number of samples that it has; C goes with samples,
and for BERT with the arithmetic of its two phases. Then T = C + 2 (n - 1) / n · 4 bytes · parameters / β + 2 (n - 1) ℓ
for the other rows' chips and batches. ``predicted`` hides nothing of the exchange; ``hidden`` all that can be.

BERT-Large (You et al. 2020, arXiv 1904.00962, table 1): LAMB on 16 to 1,024 TPU v3 chips, 32 sequences a chip, half the
steps at each doubling. ResNet-50: Kumar et al. 2019 (arXiv 1909.09756), 67.1 s on 1,024 chips; the two minutes of LEGW
(arXiv 1901.08256); MLPerf v0.7's best. The link is TPU v3's as it is commonly given, 656 Gb/s in one direction of one
torus link; what it is in use nobody published, so ``--gbits`` changes it.

``fixed`` of BERT is no prediction: seconds that every step on 1,024 chips would have to take beside its samples, for
the two rows on that machine to agree with each other.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from overnight.scaling.links import Link
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_time import StepTime

BYTES = 4
IMAGENET = 1_281_167


@dataclass(frozen=True)
class Phase:
    """Steps of one kind.

    Attributes:
        steps: how many.
        batch: samples of each, over all chips.
        cost: of a sample, in samples of the first phase.
    """

    steps: int
    batch: int
    cost: float = 1.0


@dataclass(frozen=True)
class Row:
    """One run of a table.

    Attributes:
        name: as the table has it.
        chips: that shared each step.
        minutes: published.
        phases: of the run.
    """

    name: str
    chips: int
    minutes: float
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Table:
    """Published runs of one model; the first is what the others are predicted from."""

    name: str
    parameters: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Predicted:
    """A row beside what the model says of it; ``error`` is predicted / published - 1."""

    row: str
    chips: int
    published_minutes: float
    predicted_minutes: float
    hidden_minutes: float
    error: float
    hidden_error: float


def cost_of_length(length: int, short: int, layers: int, hidden: int, parameters: int) -> float:
    """Arithmetic of a sequence in sequences of the short length: 6 N + 12 layers · hidden · length a word piece.

    >>> round(cost_of_length(512, 128, 24, 1024, 336_226_108), 2)
    4.22
    """
    long_, short_ = (t * (6 * parameters + 12 * layers * hidden * t) for t in (length, short))
    return long_ / short_


BERT_PARAMETERS = 336_226_108
LONG = cost_of_length(512, 128, 24, 1024, BERT_PARAMETERS)


def _bert(name: str, batch: int, chips: int, minutes: float) -> Row:
    """Nine tenths of 512 million sequences of 128 word pieces, and a tenth of 512."""
    steps = 512_000_000 // batch
    return Row(name, chips, minutes, (Phase(round(0.9 * steps), batch), Phase(steps - round(0.9 * steps), batch, LONG)))


BERT = Table(
    "BERT-Large, LAMB, TPU v3",
    BERT_PARAMETERS,
    (
        _bert("512", 512, 16, 82.8 * 60),
        _bert("1K", 1024, 32, 43.2 * 60),
        _bert("2K", 2048, 64, 21.4 * 60),
        _bert("4K", 4096, 128, 693.6),
        _bert("8K", 8192, 256, 390.5),
        _bert("16K", 16_384, 512, 200.0),
        _bert("32K", 32_768, 1024, 101.2),
        Row("64K/32K", 1024, 76.19, (Phase(7037, 65_536), Phase(1562, 32_768, LONG))),
    ),
)


def _resnet(name: str, batch: int, chips: int, minutes: float, epochs: float) -> Row:
    return Row(name, chips, minutes, (Phase(round(epochs * IMAGENET / batch), batch),))


RESNET = Table(
    "ResNet-50, TPU v3",
    25_557_032,
    (
        _resnet("Kumar et al. 2019, 32K, 64 epochs", 32_768, 1024, 67.1 / 60, 64.0),
        _resnet('LEGW 2019, 32K, 90 epochs ("two minutes")', 32_768, 1024, 2.0, 90.0),
        _resnet("MLPerf v0.7, 64K, 84.5 epochs", 65_536, 4096, 0.472, 84.5),
    ),
)


def link_of(gbits: float, microseconds: float) -> Link:
    """TPU v3's, unless another is given."""
    return Link("TPU v3 interconnect", gbits * 1e9, microseconds, "656 Gb/s a link as commonly given, not checked here")


def minutes(row: Row, parameters: int, link: Link, sample_ms: float, model: StepTime) -> float:
    """A run's time, if a chip computes a sample of the first phase in so many milliseconds."""
    total = 0.0
    for phase in row.phases:
        cell = StepCell(
            "ddp", row.chips, link.bits_per_second, 2 * (row.chips - 1) / row.chips * BYTES * parameters,
            compute_ms=phase.batch / row.chips * phase.cost * sample_ms, latency_ms=link.latency_us / 1e3,
        )  # fmt: skip
        total += phase.steps * model.predict(cell).step_ms
    return total / 60_000


def sample_ms(row: Row, parameters: int, link: Link, model: StepTime) -> float:
    """Milliseconds of one sample of the first phase on one chip, by bisection: the run's time rises with it."""
    low, high = 1e-9, row.minutes * 60_000
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if minutes(row, parameters, link, middle, model) < row.minutes else (low, middle)
    return high


def predict(table: Table, link: Link) -> list[Predicted]:
    """Every row but the first, from the first."""
    plain = StepTime(link_overhead=1.0)
    found: list[list[float]] = []
    for model in (plain, replace(plain, ring_overlap=1.0)):
        one = sample_ms(table.rows[0], table.parameters, link, model)
        found.append([minutes(row, table.parameters, link, one, model) for row in table.rows[1:]])
    return [
        Predicted(row.name, row.chips, row.minutes, shown, hidden, shown / row.minutes - 1, hidden / row.minutes - 1)
        for row, shown, hidden in zip(table.rows[1:], *found, strict=True)
    ]


def fixed_ms(table: Table) -> tuple[float, float]:
    """Of a step on the largest machine: what would be beside its samples, and the step of its smaller batch.

    Two runs of as many samples in different numbers of steps took different times: (t₁ - t₂) / (steps₁ - steps₂).
    """
    one, other = table.rows[-2:]
    steps = [sum(phase.steps for phase in row.phases) for row in (one, other)]
    return (one.minutes - other.minutes) * 60_000 / (steps[0] - steps[1]), one.minutes * 60_000 / steps[0]


def show(name: str, rows: Sequence[Predicted]) -> str:
    """A table as text."""
    lines = [f"{name}\n{'run':<44}{'chips':>6}{'published':>11}{'predicted':>11}{'':>7}{'all hidden':>11}"]
    for row in rows:
        lines.append(
            f"{row.row:<44}{row.chips:>6}{row.published_minutes:>11,.2f}{row.predicted_minutes:>11,.2f}"
            f"{row.error:>+7.0%}{row.hidden_minutes:>11,.2f}{row.hidden_error:>+7.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print both tables, in minutes, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gbits", type=float, default=656.0, help="of a chip's link, in one direction")
    parser.add_argument("--microseconds", type=float, default=1.0, help="latency of a message")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    link = link_of(chosen.gbits, chosen.microseconds)
    record: dict[str, Any] = {"date": date.today().isoformat(), "link": asdict(link), "tables": {}}
    for table in (BERT, RESNET):
        rows = predict(table, link)
        print(show(f"{table.name}, minutes; from {table.rows[0].name} on {table.rows[0].chips} chips", rows), "\n")
        record["tables"][table.name] = {"from": asdict(table.rows[0]), "rows": [asdict(row) for row in rows]}
    fixed, step = fixed_ms(BERT)
    print(f"BERT on 1,024 chips: {fixed:,.0f} ms of a step of {step:,.0f} ms do not go with its samples")
    record["fixed_ms"], record["step_ms"] = fixed, step
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
