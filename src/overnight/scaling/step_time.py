"""How long a step takes on n workers, from compute, bytes and bandwidth: fitted to measured cells, then predicted.

With the measured compute C of one worker, its n workers' want of cores s = max(1, n / cores), bytes B over the link's
rate β, megabytes that it handles M and the hops of its messages k,

    ring     a = s C,        b = B / β
    server   a = s C + B/β,  b = (remote workers) · max(sent, received) / β         the server's link, shared by all
    T = a (1 + γ) + ε (b and B/β of a) + h s M + (λ + ℓ) k - w min(a, b)

Fitted are ε (headers), h (packing, summing, copying), λ (the software's latency), γ (workers beside others on one
machine are slower, 0 for one) and w (overlap: 0 hides nothing, 1 hides the shorter); h and w apart for rings and
servers. An exchange of local steps hides nothing. T is linear in all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError
from overnight.scaling.intervals import t_quantile
from overnight.scaling.step_cells import StepCell

Array = npt.NDArray[np.float64]

BLOCKS = 20
"""At most so many fits leave a part of the cells out."""
_BOUNDS = {
    "link_overhead": (1.0, 2.0),
    "ring_handling_ms": (0.0, np.inf),
    "server_handling_ms": (0.0, np.inf),
    "hop_ms": (0.0, np.inf),
    "crowding": (0.0, np.inf),
    "ring_overlap": (0.0, 1.0),
    "server_overlap": (0.0, 1.0),
}


@dataclass(frozen=True)
class Prediction:
    """Of a step, in milliseconds.

    Attributes:
        step_ms: T.
        low_ms, high_ms: where nine of ten cells that the fit had not seen were; without a fit, if everything is hidden
            that can be, and if nothing is.
        computing_ms: a worker's computation, want of cores and crowding included.
    """

    step_ms: float
    low_ms: float
    high_ms: float
    computing_ms: float

    @property
    def waiting_ms(self) -> float:
        """What the exchange adds."""
        return max(0.0, self.step_ms - self.computing_ms)


@dataclass(frozen=True)
class StepTime:
    """The model of a step's time (see the module). As it is made without a fit: ideal workers, and nothing is hidden.

    Attributes:
        link_overhead: ε; 1538 / 1448 is TCP over Ethernet with packets of 1500 bytes, by counting its headers.
        ring_handling_ms, server_handling_ms: h, a megabyte sent or received.
        hop_ms: λ.
        crowding: γ.
        ring_overlap, server_overlap: w.
        intervals: parameter → 95 % interval, of those that were fitted.
        error: share of T within which nine of ten cells were that the fit had not seen; None without a fit.

    >>> ideal = StepTime(link_overhead=1.0)
    >>> ddp = StepCell("ddp", workers=4, bits_per_second=1e9, bytes_per_step=100e6, compute_ms=500.0)
    >>> found = ideal.predict(ddp)
    >>> found.low_ms, found.step_ms
    (800.0, 1300.0)
    """

    link_overhead: float = 1538 / 1448
    ring_handling_ms: float = 0.0
    server_handling_ms: float = 0.0
    hop_ms: float = 0.0
    crowding: float = 0.0
    ring_overlap: float = 0.0
    server_overlap: float = 1.0
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    error: float | None = None

    def predict(self, cell: StepCell) -> Prediction:
        """The time of a step of this cell, whatever was measured of it."""
        known, factors = _terms(cell)
        step = known + sum(getattr(self, name) * factor for name, factor in factors.items())
        computing = cell.stretch * cell.compute_ms + self.crowding * factors["crowding"]
        if self.error is not None:
            return Prediction(step, step * (1 - self.error), step * (1 + self.error), computing)
        hidden = factors["ring_overlap"] + factors["server_overlap"]
        shown = step - self.ring_overlap * factors["ring_overlap"] - self.server_overlap * factors["server_overlap"]
        return Prediction(step, shown + hidden, shown, computing)

    def errors(self, cells: Sequence[StepCell]) -> list[float]:
        """By how many percent the predicted times of measured cells are too long (above 0) or too short."""
        return [100 * (self.predict(cell).step_ms / _measured(cell) - 1) for cell in cells]

    def table(self, cells: Sequence[StepCell]) -> str:
        """Measured cells beside their predicted times, as text."""
        lines = [
            f"{'model':<12}{'mode':<18}{'n':>4}{'link':>12}{'MB a step':>11}{'ms':>10}{'predicted':>11}{'error':>8}"
        ]
        for cell, error in zip(cells, self.errors(cells), strict=True):
            rate = "free" if cell.bits_per_second is None else f"{cell.bits_per_second / 1e6:,.0f} Mb/s"
            lines.append(
                f"{cell.model:<12}{cell.mode:<18}{cell.workers:>4}{rate:>12}{cell.bytes_per_step / 1e6:>11.2f}"
                f"{cell.step_ms or 0:>10,.1f}{self.predict(cell).step_ms:>11,.1f}{error:>+7.1f}%"
            )
        return "\n".join(lines)


def fit(cells: Sequence[StepCell]) -> StepTime:
    """The step-time model of measured cells, by least squares of relative errors within the parameters' bounds.

    Parameters about which the cells say nothing keep their defaults. Intervals are of the jackknife, and ``error`` is
    of cells that were left out: each, or one of twenty parts of them.

    Raises:
        UserError: for fewer cells than parameters and one more, or cells without ``step_ms``.
    """
    names = [name for name in _BOUNDS if sum(_terms(cell)[1][name] != 0 for cell in cells) > 1]
    if len(cells) < len(names) + 2:
        raise UserError(
            f"{len(cells)} cells are too few to fit {len(names)} parameters of a step's time.",
            f"Measure {len(names) + 2} at least.",
        )
    factors_CP, left_C = _system(cells, names)
    whole = _solved(factors_CP, left_C, names)
    blocks = min(BLOCKS, len(cells))
    of_block = np.arange(len(cells)) % blocks
    without_BP = np.stack([_solved(factors_CP[of_block != b], left_C[of_block != b], names) for b in range(blocks)])
    unseen_C = np.abs(np.einsum("cp,cp->c", factors_CP, without_BP[of_block]) - left_C)
    half_P = t_quantile(blocks - 1) * np.sqrt((blocks - 1) / blocks * np.square(without_BP - whole).sum(0))
    low_P, high_P = np.array([_BOUNDS[name] for name in names]).T
    ends = zip(np.maximum(whole - half_P, low_P), np.minimum(whole + half_P, high_P), strict=True)
    values = {name: float(value) for name, value in zip(names, whole, strict=True)}
    intervals = {name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)}
    found = replace(StepTime(), **values)  # type: ignore[arg-type]
    return replace(found, intervals=intervals, error=float(np.quantile(unseen_C, 0.9)))


def _terms(cell: StepCell) -> tuple[float, dict[str, float]]:
    """Milliseconds that are known, and what each parameter is multiplied by to give its own."""
    computing = cell.stretch * cell.compute_ms
    crowded = computing if cell.cores is not None and cell.workers > 1 else 0.0
    ours = computing + (cell.transfer_ms if cell.through_server else 0.0)
    links = cell.server_ms if cell.through_server else cell.transfer_ms
    hidden = -min(ours, links) if cell.overlaps else 0.0
    ring = not cell.through_server
    factors = {
        "link_overhead": cell.transfer_ms + cell.server_ms,
        "ring_handling_ms": cell.handled_megabytes if ring else 0.0,
        "server_handling_ms": 0.0 if ring else cell.handled_megabytes,
        "hop_ms": cell.hops,
        "crowding": crowded,
        "ring_overlap": hidden if ring else 0.0,
        "server_overlap": 0.0 if ring else hidden,
    }
    return computing + cell.latency_ms * cell.hops, factors


def _system(cells: Sequence[StepCell], names: Sequence[str]) -> tuple[Array, Array]:
    """Each cell's factors of the fitted parameters, and what they should add up to, as shares of the measured time."""
    defaults = StepTime()
    factors_CP, left_C = np.empty((len(cells), len(names))), np.empty(len(cells))
    for place, cell in enumerate(cells):
        known, factors = _terms(cell)
        kept = sum(getattr(defaults, name) * factor for name, factor in factors.items() if name not in names)
        factors_CP[place] = [factors[name] / _measured(cell) for name in names]
        left_C[place] = 1.0 - (known + kept) / _measured(cell)
    return factors_CP, left_C


def _solved(factors_CP: Array, left_C: Array, names: Sequence[str]) -> Array:
    """Least squares within bounds, by coordinates: the problem is convex, and each has its minimum in closed form."""
    defaults = StepTime()
    low_P, high_P = np.array([_BOUNDS[name] for name in names]).T
    gram_PP, right_P = factors_CP.T @ factors_CP, factors_CP.T @ left_C
    found_P = np.array([getattr(defaults, name) for name in names])
    seen = [place for place in range(len(names)) if gram_PP[place, place] > 0]
    for _ in range(10_000):
        before_P = found_P.copy()
        for p in seen:
            best = found_P[p] + (right_P[p] - gram_PP[p] @ found_P) / gram_PP[p, p]
            found_P[p] = min(max(best, low_P[p]), high_P[p])
        if np.allclose(found_P, before_P, rtol=1e-9, atol=1e-12):
            break
    return found_P


def _measured(cell: StepCell) -> float:
    if cell.step_ms is None:
        raise UserError(
            f"A cell ({cell.mode}, {cell.workers} workers) has no step_ms.", "Give cells that are measured."
        )
    return cell.step_ms
