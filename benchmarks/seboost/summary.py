"""What the runs say: best choices, ratios of losses with intervals over seeds and bases, usable rates."""

import json
import math
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

Run = dict[str, Any]
SCHEDULES = ("constant", "cosine")
USABLE = 1.1
"""A rate is usable if its held-out loss is at most so many times the best that the base optimizer has at any."""
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 10: 2.26, 15: 2.14}


def read(path: Path) -> list[Run]:
    """Runs that were made."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def loss_of(found: Run, name: str = "held_out") -> float:
    """Infinite where it diverged."""
    value = float(found[name])
    return value if math.isfinite(value) else math.inf


def tuning(runs: list[Run], task: str, base: str, arm: str) -> list[Run]:
    """The grid of an arm."""
    where = {"task": task, "base": base, "arm": arm, "seed": 0, "unit": "gradients"}
    return [found for found in runs if all(found.get(key) == value for key, value in where.items())]


def best(runs: list[Run], task: str, base: str, arm: str) -> tuple[float, str]:
    """Rate and schedule of an arm's lowest held-out loss."""
    found = min(tuning(runs, task, base, arm), key=loss_of)
    return found["rate"], found["schedule"]


def compared(runs: list[Run], task: str, base: str, arm: str, unit: str) -> list[tuple[Run, Run]]:
    """(base optimizer's run, the arm's), each of its best choice, of every seed but that of the grid."""

    def chosen(which: str, of: str) -> dict[int, Run]:
        rate, schedule = best(runs, task, base, which)
        where = {"task": task, "base": base, "arm": which, "rate": rate, "schedule": schedule, "unit": of}
        return {f["seed"]: f for f in runs if f["seed"] and all(f[key] == value for key, value in where.items())}

    theirs, ours = chosen("base", "gradients"), chosen(arm, unit)
    return [(theirs[seed], ours[seed]) for seed in theirs if seed in ours]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t; infinite of one value."""
    if len(values) < 2:
        return mean(values), math.inf
    t = next((T95[n] for n in sorted(T95) if n >= len(values)), 2.0)
    return mean(values), t * stdev(values) / math.sqrt(len(values))


def logs(pairs: list[tuple[Run, Run]]) -> list[float]:
    """log(arm's test loss / base optimizer's)."""
    return [math.log(loss_of(ours, "test") / loss_of(theirs, "test")) for theirs, ours in pairs]


def percent(values: list[float]) -> str:
    """A mean of logs of ratios as a change in percent, with its interval."""
    middle, half = interval(values)
    if math.isinf(half):
        return f"{100 * math.expm1(middle):+.1f} %"
    ends = [100 * math.expm1(end) for end in (middle - half, middle + half)]
    return f"{100 * math.expm1(middle):+.1f} % [{ends[0]:+.1f}, {ends[1]:+.1f}]"


def usable(runs: list[Run], task: str, base: str, arm: str, schedule: str) -> int:
    """How many rates of the grid."""
    limit = USABLE * min(map(loss_of, tuning(runs, task, base, "base")))
    return sum(loss_of(f) <= limit for f in tuning(runs, task, base, arm) if f["schedule"] == schedule)


def elsewhere(runs: list[Run], task: str, base: str, arm: str) -> list[float]:
    """log(arm's held-out loss / base optimizer's) at the rates and schedules that the latter cannot use."""
    alone = {(f["rate"], f["schedule"]): loss_of(f) for f in tuning(runs, task, base, "base")}
    limit = USABLE * min(alone.values())
    ours = {(f["rate"], f["schedule"]): loss_of(f) for f in tuning(runs, task, base, arm)}
    bad = [key for key, loss in alone.items() if loss > limit and key in ours]
    return [_log_ratio(ours[key], alone[key]) for key in bad]


def _log_ratio(ours: float, theirs: float) -> float:
    if math.isinf(theirs):
        return 0.0 if math.isinf(ours) else -math.inf
    return math.log(ours / theirs)


def groups(runs: list[Run], others: bool) -> list[tuple[str, str, str]]:
    """(task, base, arm) of what is compared with the base optimizer alone, in the order in which it was run."""
    found = [(f["task"], f["base"], f["arm"]) for f in runs if "arm" in f and f["arm"] != "base"]
    return [key for key in dict.fromkeys(found) if (key[2] != "boost") == others]


def print_summary(runs: list[Run]) -> None:
    """Tables in Markdown."""
    made = [found for found in runs if "arm" in found]
    head = ("task", "base", "arm", "test loss alone", "with", "equal gradients", "equal seconds", "choices")
    print(f"\n| {' | '.join(head)} | usable rates | at the others |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for task, base, arm in groups(made, False) + groups(made, True):
        pairs = {unit: compared(made, task, base, arm, unit) for unit in ("gradients", "seconds")}
        if not pairs["gradients"]:
            continue
        alone, ours = (mean(loss_of(pair[side], "test") for pair in pairs["gradients"]) for side in (0, 1))
        ratios = [percent(logs(pair)) if pair else "" for pair in pairs.values()]
        choices = [" ".join(map(str, reversed(best(made, task, base, which)))) for which in ("base", arm)]
        rates = [
            f"{schedule} {usable(made, task, base, 'base', schedule)} → {usable(made, task, base, arm, schedule)}"
            for schedule in SCHEDULES
        ]
        others = elsewhere(made, task, base, arm)
        better = f"{sum(x < 0 for x in others)} of {len(others)} better"
        if others:
            better += f", median {100 * math.expm1(median(others)):+.0f} %"
        print(
            f"| {task} | {base} | {arm} | {alone:.4g} | {ours:.4g} | {' | '.join(ratios)} | {' → '.join(choices)} | "
            f"{', '.join(rates)} | {better} |"
        )
    _pooled(made)
    costs = [found for found in runs if found.get("unit") == "overhead"]
    if costs:
        print("\n| task | base | weights | ms a step | ms a boost | % of gradients | % of processor time |")
        print("|---|---|---|---|---|---|---|")
    for found in costs:
        print(
            f"| {found['task']} | {found['base']} | {found['weights']:,} | {found['cpu_ms_a_step']:.2f} | "
            f"{found['cpu_ms_a_boost']:.1f} | {found['percent_of_gradients']:.1f} | {found['percent_of_cpu']:.1f} |"
        )


def _pooled(made: list[Run]) -> None:
    print("\n| task | bases | equal gradients | equal seconds | usable rates, constant | cosine | at the others |")
    print("|---|---|---|---|---|---|---|")
    by_unit: dict[str, list[float]] = {"gradients": [], "seconds": []}
    for task in dict.fromkeys(key[0] for key in groups(made, False)):
        bases = [base for name, base, _ in groups(made, False) if name == task]
        means = {
            unit: [mean(logs(pairs)) for base in bases if (pairs := compared(made, task, base, "boost", unit))]
            for unit in by_unit
        }
        if not means["seconds"]:
            continue
        for unit, found in means.items():
            by_unit[unit] += found
        counts = [
            f"{sum(usable(made, task, base, 'base', s) for base in bases)} → "
            f"{sum(usable(made, task, base, 'boost', s) for base in bases)}"
            for s in SCHEDULES
        ]
        others = [x for base in bases for x in elsewhere(made, task, base, "boost")]
        better = f"{sum(x < 0 for x in others)} of {len(others)} better"
        print(
            f"| {task} | {len(bases)} | {' | '.join(map(percent, means.values()))} | {' | '.join(counts)} | {better} |"
        )
    if by_unit["seconds"]:
        print(f"| all | {len(by_unit['seconds'])} | {' | '.join(map(percent, by_unit.values()))} | | | |")
