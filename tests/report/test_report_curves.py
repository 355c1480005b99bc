"""Series made into paths: what is drawn is what was measured."""

import math
import random
import re

import pytest

from overnight.report import curves
from overnight.report.canvas import spread
from overnight.report.curves import SIZE, Axis


def decode(path: str) -> list[list[tuple[int, int]]]:
    """The strokes of a path as absolute points."""
    strokes = []
    for stroke in path.replace("h0", "").split("M")[1:]:
        x, y, *deltas = map(int, re.findall(r"-?\d+", stroke))
        points = [(x, y)]
        for right, down in zip(deltas[::2], deltas[1::2], strict=True):
            x, y = x + right, y + down
            points.append((x, y))
        strokes.append(points)
    return strokes


def test_a_line_passes_through_its_points() -> None:
    rng = random.Random(1)
    xs = sorted(rng.uniform(0, 50) for _ in range(300))
    ys = [rng.uniform(-2, 7) for _ in xs]
    (stroke,) = decode(curves.line(Axis(0, 50), Axis(-2, 7), xs, ys))
    assert len(stroke) == 300
    for (px, py), x, y in zip(stroke, xs, ys, strict=True):
        assert px == pytest.approx(SIZE * x / 50, abs=1)
        assert py == pytest.approx(SIZE * (1 - (y + 2) / 9), abs=1)


def test_gaps_break_the_line_and_lone_points_stay_visible() -> None:
    path = curves.line(Axis(0, 4), Axis(0, 4), [0, 1, 2, 3, 4], [0.0, 1.0, None, 3.0, None])
    assert [len(stroke) for stroke in decode(path)] == [2, 1]
    assert path.endswith("M7500 2500h0")
    assert curves.line(Axis(0, 4), Axis(0, 4), [0, None], [None, 1.0]) == ""


def test_stairs_hold_each_value_until_the_next() -> None:
    (stroke,) = decode(curves.line(Axis(0, 2), Axis(0, 2), [0, 1, 2], [0.0, 0.0, 2.0], stairs=True))
    assert stroke == [(0, SIZE), (SIZE // 2, SIZE), (SIZE, SIZE), (SIZE, 0)]


def test_a_logarithmic_axis_spaces_by_ratio_and_leaves_zero_out() -> None:
    axis = Axis(0.1, 1000, log=True)
    assert axis.place(10) == pytest.approx(0.5)
    assert len(decode(curves.line(Axis(0, 2), axis, [0, 1, 2], [1.0, 0.0, 10.0]))) == 2


def test_smoothing_keeps_a_straight_line_and_the_start() -> None:
    straight = [0.5 * i for i in range(200)]
    assert curves.smooth(straight, 8)[:190] == pytest.approx(straight[:190])
    steep = [8 / math.sqrt(i + 1) for i in range(200)]
    smoothed = curves.smooth(steep, 8)
    assert smoothed[0] == steep[0]
    assert max(abs(a - b) / b for a, b in zip(smoothed[:190], steep, strict=False) if a is not None) < 0.05


def test_smoothing_lessens_noise_and_leaves_gaps() -> None:
    rng = random.Random(2)
    noisy: list[float | None] = [2 + rng.gauss(0, 1) for _ in range(1000)]
    noisy[500] = None
    smoothed = curves.smooth(noisy, 20)
    assert smoothed[500] is None
    deviations = [abs(v - 2) for v in smoothed[100:900] if v is not None]
    # The mean of 41 draws has a deviation of 1/sqrt(41) = 0.156, so its mean distance is about 0.125.
    assert sum(deviations) / len(deviations) < 0.16


def test_thinning_keeps_spikes_ends_and_gaps() -> None:
    values: list[float | None] = [math.sin(i / 900) for i in range(50_000)]
    values[31_234], values[7_777], values[40_001] = 99.0, -99.0, None
    kept = curves.thin(values, 700)
    assert len(kept) <= 703
    assert {0, 49_999, 31_234, 7_777, 40_001} <= set(kept)
    assert kept == sorted(kept)
    assert curves.thin(values[:700], 700) == list(range(700))


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(1.52, 4.7), ["2", "3", "4"]),
        (Axis(0, 0.013), ["0.000", "0.005", "0.010"]),
        (Axis(0, 2.1), ["0.0", "0.5", "1.0", "1.5", "2.0"]),
        (Axis(0, 2.1, counts=True), ["0", "1", "2"]),
        (Axis(0, 12_345), ["0", "5,000", "10,000"]),
        (Axis(0.2, 0.9, log=True), ["0.2", "0.5"]),
        (Axis(900, 2e6, log=True), ["1k", "10k", "100k", "1M"]),
        (Axis(5.0, 5.5), ["5.0", "5.1", "5.2", "5.3", "5.4", "5.5"]),
    ],
)
def test_ticks_are_round(axis: Axis, labels: list[str]) -> None:
    ticks = axis.ticks()
    assert [label for _, label in ticks] == labels
    assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [-5.0, 5.0], [1e-12, 2e-12], [1e15]])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("floor", [None, 0.0])
def test_every_axis_has_a_width_and_ticks(values: list[float], log: bool, floor: float | None) -> None:
    axis = curves.fit_axis(values, floor=floor, log=log)
    assert axis.low < axis.high
    assert 1 <= len(axis.ticks()) <= 12
    # A baseline of an axis that begins at a floor is the floor; all else is held.
    held = [value for value in values if floor is None or value >= floor]
    assert all(0 <= axis.place(value) <= 1 for value in held if not axis.log or value > 0)


def test_labels_of_close_levels_do_not_cover_each_other() -> None:
    placed = spread([(0.5, "b"), (0.49, "a"), (0.9, "c")], 0.06)
    assert [(r.label, r.place) for r in placed] == [("a", 0.49), ("b", 0.5), ("c", 0.9)]
    assert [r.label_place for r in placed] == pytest.approx([0.49, 0.55, 0.9])
