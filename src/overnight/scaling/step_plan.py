"""What a step would take on more workers and other links: a table for choosing among them."""

from collections.abc import Sequence
from dataclasses import dataclass

from overnight.errors import UserError
from overnight.scaling.links import Link
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_time import Prediction, StepTime


@dataclass(frozen=True)
class Planned:
    """One way of training on one link.

    Attributes:
        cell: what is predicted.
        link: between hosts.
        prediction: of its step.
        speedup: over one worker of the first way, in steps' worth of samples: n · C / T.
    """

    cell: StepCell
    link: Link
    prediction: Prediction
    speedup: float


def plan(
    ways: Sequence[StepCell],
    workers: int,
    links: Sequence[Link],
    *,
    model: StepTime | None = None,
    per_host: int = 1,
    inside: Link | None = None,
    links_per_host: int = 1,
) -> list[Planned]:
    """Predict each way of training on each link, with a core or a device for every worker.

    Args:
        ways: measured on two workers or more, the plainest first.
        workers: n.
        links: between hosts.
        model: fitted where its software and machines are those of the plan; None assumes ideal ones.
        per_host, inside, links_per_host: see ``StepCell.at``.

    Raises:
        UserError: without ways or links; for a way measured on one worker.

    >>> from overnight.scaling.links import LINKS
    >>> ddp = StepCell("ddp", workers=8, bits_per_second=None, bytes_per_step=2.6e9, compute_ms=400.0)
    >>> found = plan([ddp], 128, [LINKS["25G"], LINKS["ndr"]], per_host=8, inside=LINKS["nvlink4"], links_per_host=8)
    >>> print(plan_table(found))  # doctest: +NORMALIZE_WHITESPACE
    model  mode    n  link              MB a step   ms  from   to  waiting  × one worker
           ddp   128  25 Gb/s Ethernet    2,948.2  530   412  530      25%          96.5
           ddp   128  InfiniBand NDR      2,948.2  408   401  408       2%         125.4
    """
    if not ways or not links:
        raise UserError("A plan needs a way of training and a link.", "Give at least one of each.")
    model = model or StepTime()
    rows = []
    for link in links:
        for way in ways:
            cell = way.at(workers, link, per_host=per_host, inside=inside, links_per_host=links_per_host)
            found = model.predict(cell)
            rows.append(Planned(cell, link, found, workers * ways[0].compute_ms / found.step_ms))
    return rows


def plan_table(rows: Sequence[Planned]) -> str:
    """A plan as text; ``from`` and ``to`` are ``Prediction``'s low and high."""
    lines = [
        f"{'model':<12}{'mode':<18}{'n':>5}  {'link':<24}{'MB a step':>11}{'ms':>10}{'from':>10}{'to':>10}"
        f"{'waiting':>9}{'× one worker':>14}"
    ]
    for row in rows:
        found = row.prediction
        lines.append(
            f"{row.cell.model:<12}{row.cell.mode:<18}{row.cell.workers:>5}  {row.link.name:<24}"
            f"{row.cell.bytes_per_step / 1e6:>11,.1f}{found.step_ms:>10,.0f}{found.low_ms:>10,.0f}"
            f"{found.high_ms:>10,.0f}{found.waiting_ms / found.step_ms:>9.0%}{row.speedup:>14.1f}"
        )
    return "\n".join(lines)
