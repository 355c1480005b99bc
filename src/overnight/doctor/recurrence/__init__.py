"""The recurrence against the naive loop, nn.LSTM and the matrix products alone, on this machine.

A contestant's forward runs without a graph; forward and backward give every weight's gradient and the input's. All take
turns, round after round. GFLOP/s count the products only (a backward as two forwards), "floor" is the share of the
speed of the same products with no cell at all, "peak" that of one large product.

``-projected`` maps have h of a quarter of the units (an eighth from 8192 on) and an input as wide; the others read 64
numbers a step. The multiplicative map reads bytes, as the byte model does: embedded for the rivals, looked up in a
table of projected bytes by the fast path; both give the embedding's gradient. F-LSTM's rank is half of h, G-LSTM has 4
groups.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from overnight.errors import UserError

MAPS = (
    "multiplicative",
    "dense",
    "factorized",
    "grouped",
    "dense-projected",
    "factorized-projected",
    "grouped-projected",
)
BYTE_WIDTH, GROUPS = 64, 4


def compare(
    maps: Sequence[str],
    sizes: Sequence[str],
    device: str,
    *,
    seconds: float,
    rounds: int = 3,
    contestants: Sequence[str] = (),
) -> Iterator[list[dict[str, Any]]]:
    """Race every map at every size; gives the rows of each race as it ends.

    Args:
        maps: names from ``MAPS``.
        sizes: units/batch/steps, such as ``1024/128/64``.
        device: ``cpu`` or ``cuda``.
        seconds: of each race, after the warm-up.
        rounds: at least so many.
        contestants: from ``race.CONTESTANTS``; empty means all.

    Raises:
        UserError: for a map or size that is none, before anything is raced.
    """
    from overnight.doctor.recurrence.race import CONTESTANTS, matrix_rates, race
    from overnight.doctor.recurrence.table import rows_of

    cases = [case_of(name, size) for name in maps for size in sizes]
    warnings.filterwarnings("ignore", message="LSTM with projections")
    peaks = matrix_rates(device)
    for case in cases:
        yield rows_of(case, race(case, list(contestants or CONTESTANTS), device, seconds, rounds), peaks)


def contestants_of(precision: str) -> list[str]:
    """Those that compute in a precision, and the naive fp32 loop, to which all are compared; ``auto`` means all.

    >>> contestants_of("bf16")
    ['fast bf16', 'readable bf16', 'naive fp32', 'naive bf16', 'nn.LSTM bf16', 'products bf16']

    Raises:
        UserError: for a precision in which nothing is raced.
    """
    from overnight.doctor.recurrence.race import CONTESTANTS

    if precision not in ("auto", "fp32", "bf16"):
        raise UserError(f"The recurrence is not raced in {precision}.", "Give --precision fp32, bf16 or auto.")
    return [name for name in CONTESTANTS if precision in ("auto", name.split()[-1]) or name == "naive fp32"]


def case_of(name: str, size: str) -> Any:
    """The case of a map's name and ``units/batch/steps``.

    Raises:
        UserError: for a map that is none, or a size that is none or not one of this map.
    """
    from overnight.doctor.recurrence.rivals import Case

    if name not in MAPS:
        raise UserError(f"There is no gate map {name!r}.", f"Choose from {', '.join(MAPS)}.")
    try:
        hidden, batch, steps = (int(word) for word in size.split("/"))
        if min(hidden, batch, steps) < 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{size!r} is not a size.", "Give units/batch/steps, such as 1024/128/64.") from None
    gates, _, projected = name.partition("-")
    share = (8 if hidden >= 8192 else 4) if projected else 1
    if gates == "grouped" and hidden % (share * GROUPS):
        raise UserError(
            f"{hidden} units of {name} do not make {GROUPS} groups.", f"Take a multiple of {share * GROUPS}."
        )
    if hidden < share:
        raise UserError(f"{hidden} units are too few for {name}.", f"Take at least {share}.")
    output = hidden // share
    return Case(gates, hidden, batch, steps, output if projected else BYTE_WIDTH, output, max(1, output // 2), GROUPS)


def where(device: str) -> str:
    """The device's name, and how many threads."""
    import torch

    from overnight.doctor.machine import examine_machine

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{examine_machine(Path()).cpu}, {torch.get_num_threads()} threads"
