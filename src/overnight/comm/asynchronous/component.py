"""The trainer's component: settings of asynchronous training as one value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from overnight.comm.asynchronous.staleness import Staleness
from overnight.comm.plan import Compensation, Plan
from overnight.comm.strategies import row_plan
from overnight.errors import UserError


@dataclass(frozen=True)
class Asynchronous:
    """How a run's workers train around a parameter server; see ``asynchronous``."""

    plan: Plan
    max_staleness: int | None
    lr_by_staleness: bool
    pushes_per_update: int
    start_seconds: float
    timeout_seconds: float


def asynchronous(
    *,
    rows: Sequence[str] = (),
    random: float = 0.08,
    frequent: float = 0.02,
    touched: bool = True,
    embeddings: Sequence[str] = (),
    hidden: Sequence[tuple[str, int]] = (),
    rate: float = 0.5,
    compensation: Compensation = "residual",
    dense: bool = False,
    dtype: Literal["bf16"] | None = None,
    max_staleness: int | None = None,
    lr_by_staleness: bool = False,
    pushes_per_update: int = 1,
    start_seconds: float = 60.0,
    timeout_seconds: float = 300.0,
    seed: int = 0,
) -> Asynchronous:
    """Rank 0 holds the weights, and every rank trains at its own pace (docs/methods/asynchronous.md).

    Args:
        rows, random, frequent, touched, embeddings, hidden, rate, compensation: which rows of which gradients are
            exchanged, as in ``overnight.comm.strategies.sampled``; without patterns, all of dense gradients.
        dense: leave these patterns out, and exchange all of dense gradients.
        dtype: ``bf16`` rounds what is exchanged, weights too, to bfloat16.
        max_staleness: gradients of weights that are more updates old are refused; None refuses none.
        lr_by_staleness: divide the rate of an update by 1 + τ.
        pushes_per_update: so many workers' gradients are averaged for an update.
        start_seconds: how long rank 0 waits at the start for all workers, before it begins with those there are.
        timeout_seconds: after which worker and server give each other up.
        seed: of the drawn rows.

    Raises:
        UserError: for settings outside their range.

    >>> asynchronous(hidden=[["rnn.weight*", 4]], rate=0.25).plan.rule("rnn.weight_hh_l0")
    HiddenRows(rate=0.25, blocks=4, compensation='residual')
    """
    Staleness(max_staleness)
    if isinstance(pushes_per_update, bool) or not isinstance(pushes_per_update, int) or pushes_per_update < 1:
        raise UserError(f"pushes_per_update={pushes_per_update!r} cannot be.", "Give a whole number of at least 1.")
    for name, seconds in (("start_seconds", start_seconds), ("timeout_seconds", timeout_seconds)):
        if not seconds > 0:
            raise UserError(f"{name}={seconds!r} cannot be.", "Give seconds above 0.")
    plan = Plan({}, seed, dtype)
    if not dense and (rows or embeddings or hidden):
        plan = row_plan(
            rows, random, frequent, touched, embeddings, hidden, rate, compensation=compensation, dtype=dtype, seed=seed
        )
    return Asynchronous(plan, max_staleness, lr_by_staleness, pushes_per_update, start_seconds, timeout_seconds)
