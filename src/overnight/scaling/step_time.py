"""How long a step takes on n workers, from compute, bytes and bandwidth: fitted to measured cells, then predicted.

With the measured compute C of one worker, its n workers' want of cores s = max(1, n / cores), bytes B over the link's
rate β, megabytes that it handles M and the hops of its messages k,

    ring     a = s C,        b = B / β
    server   a = s C + B/β,  b = (remote workers) · max(sent, received) / β         the server's link, shared by all
    T = s C + max(ε (b and B/β of a) + ℓ k - w min(a, b), h s M + λ k)

so an exchange takes as long as its bytes on the link, or as the software around them, whichever is longer.

Fitted are ε (headers), h (packing, summing, copying), λ (the software's latency) and w (overlap: 0 hides nothing, 1
hides the shorter); h and w apart for rings and servers. An exchange of local steps hides nothing. T is linear in all of
them, once it is known which of the two is longer.

Workers beside others on one machine are slower than n / cores says, each way of training by another factor: there, C is
to be measured with all of them at work, and cores to be None.
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
ROUNDS = 20
"""At most, until it is settled which cells wait for the link and which for the software."""
_BOUNDS = {
    "link_overhead": (1.0, 2.0),
    "ring_handling_ms": (0.0, np.inf),
    "server_handling_ms": (0.0, np.inf),
    "hop_ms": (0.0, np.inf),
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
        computing_ms: a worker's computation, want of cores included.
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
        ring_overlap, server_overlap: w.
        intervals: parameter → 95 % interval, of those that were fitted.
        error: share of T within which nine of ten cells were that the fit had not seen; None without a fit.
        unseen: by how many percent each cell's time was too long (above 0) or too short for a fit that had not seen it.

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
    ring_overlap: float = 0.0
    server_overlap: float = 1.0
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    error: float | None = None
    unseen: Sequence[float] = ()

    def predict(self, cell: StepCell) -> Prediction:
        """The time of a step of this cell, whatever was measured of it."""
        computing = cell.stretch * cell.compute_ms
        step = self._step(cell)
        if self.error is not None:
            return Prediction(step, step * (1 - self.error), step * (1 + self.error), computing)
        low, high = (replace(self, ring_overlap=w, server_overlap=w)._step(cell) for w in (1.0, 0.0))
        return Prediction(step, low, high, computing)

    def link_bound(self, cell: StepCell) -> bool:
        """Whether its exchange takes as long as its bytes on the link, and not as the software."""
        return self._branch(cell, True) >= self._branch(cell, False)

    def _step(self, cell: StepCell) -> float:
        return max(self._branch(cell, True), self._branch(cell, False))

    def _branch(self, cell: StepCell, link: bool) -> float:
        known, factors = _terms(cell, link)
        return known + sum(float(getattr(self, name)) * factor for name, factor in factors.items())

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


def fit(cells: Sequence[StepCell], blocks: int = BLOCKS) -> StepTime:
    """The step-time model of measured cells, by least squares of relative errors within the parameters' bounds.

    Parameters about which the cells say nothing keep their defaults. Intervals are of the jackknife, ``error`` and
    ``unseen`` of fits from which cells were left out.

    Args:
        cells: measured.
        blocks: of which each is left out once; as many as cells leave out one by one.

    Raises:
        UserError: for fewer cells than parameters and one more, or cells without ``step_ms``.
    """
    if len(cells) < 2:
        raise UserError(f"{len(cells)} cells are too few to fit a step's time.", "Measure several ways and links.")
    found, names = _fitted(cells, [cell.bits_per_second is not None for cell in cells])
    if len(cells) < len(names) + 2:
        raise UserError(
            f"{len(cells)} cells are too few to fit {len(names)} parameters of a step's time.",
            f"Measure {len(names) + 2} at least.",
        )
    blocks = min(blocks, len(cells))
    others = []
    for block in range(blocks):
        seen = [cell for c, cell in enumerate(cells) if c % blocks != block]
        others.append(_fitted(seen, [found.link_bound(cell) for cell in seen])[0])
    unseen = [others[c % blocks].errors([cell])[0] for c, cell in enumerate(cells)]
    widest, intervals = t_quantile(blocks - 1) * ((blocks - 1) / blocks) ** 0.5, {}
    for name in names:
        value, (least, most) = getattr(found, name), _BOUNDS[name]
        half = widest * float(np.linalg.norm([getattr(other, name) - value for other in others]))
        intervals[name] = (max(value - half, least), min(value + half, most))
    error = float(np.quantile(np.abs(unseen), 0.9)) / 100
    return replace(found, intervals=intervals, error=error, unseen=tuple(unseen))


def _fitted(cells: Sequence[StepCell], links: list[bool]) -> tuple[StepTime, list[str]]:
    """The parameters, and which of them more than one cell has; the others are the defaults.

    Args:
        cells: measured.
        links: a first guess of which cells wait for the link.
    """
    for _ in range(ROUNDS):
        terms = [_terms(cell, link)[1] for cell, link in zip(cells, links, strict=True)]
        names = [name for name in _BOUNDS if sum(factors[name] != 0 for factors in terms) > 1]
        values = _solved(*_system(cells, links, names), names)
        found = replace(StepTime(), **dict(zip(names, values.tolist(), strict=True)))
        before, links = links, [found.link_bound(cell) for cell in cells]
        if links == before:
            break
    return found, names


def _terms(cell: StepCell, link: bool) -> tuple[float, dict[str, float]]:
    """Milliseconds that are known, and what each parameter is multiplied by to give its own.

    Args:
        cell: of any kind.
        link: the exchange takes as long as its bytes on the link; else as the software.
    """
    computing = cell.stretch * cell.compute_ms
    ring = not cell.through_server
    factors = dict.fromkeys(_BOUNDS, 0.0)
    if not link:
        factors["ring_handling_ms" if ring else "server_handling_ms"] = cell.handled_megabytes
        factors["hop_ms"] = cell.hops
        return computing, factors
    ours = computing + (0.0 if ring else cell.transfer_ms)
    links = cell.transfer_ms if ring else cell.server_ms
    factors["link_overhead"] = cell.transfer_ms + cell.server_ms
    factors["ring_overlap" if ring else "server_overlap"] = -min(ours, links) if cell.overlaps else 0.0
    return computing + cell.latency_ms * cell.hops, factors


def _system(cells: Sequence[StepCell], links: Sequence[bool], names: Sequence[str]) -> tuple[Array, Array]:
    """Each cell's factors of the fitted parameters, and what they should add up to, as shares of the measured time."""
    defaults = StepTime()
    factors_CP, left_C = np.empty((len(cells), len(names))), np.empty(len(cells))
    for place, (cell, link) in enumerate(zip(cells, links, strict=True)):
        known, factors = _terms(cell, link)
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
        if (np.abs(found_P - before_P) <= 1e-12 + 1e-9 * np.abs(before_P)).all():
            break
    return found_P


def _measured(cell: StepCell) -> float:
    if cell.step_ms is None:
        raise UserError(
            f"A cell ({cell.mode}, {cell.workers} workers) has no step_ms.", "Give cells that are measured."
        )
    return cell.step_ms
