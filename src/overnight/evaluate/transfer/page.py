"""The results of a study as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def text_of(results: Mapping[str, Any]) -> str:
    """Tables of results.json.

    Args:
        results: what `study` gives.
    """
    found = [_head(results), _accuracies(results)]
    fit = results["all_units"]
    found.append(
        f"All units: C = {fit['C']:.4g}, chosen on {fit['chosen_on']}; {fit['nonzero']:,} of "
        f"{results['features']['hidden_size']:,} units have a weight"
        + ("" if fit["converged"] else "; the fit stopped before it converged")
    )
    best = results["best_unit"]
    if best["sign"]:
        side = "above" if best["sign"] > 0 else "below"
        found.append(f"Unit {best['unit']}: {results['classes'][1]} where it is {side} {best['threshold']:.4g}")
    else:
        means = ", ".join(f"{name} {mean:.3g}" for name, mean in zip(results["classes"], best["means"], strict=True))
        found.append(f"Unit {best['unit']}: the class of the nearest mean ({means})")
    numbers = results["by_number_of_units"]
    found.append(
        _table(
            "units, heaviest first",
            [f"{n['units']:,}" for n in numbers],
            [_percent(n["test_accuracy"]) for n in numbers],
        )
    )
    if results.get("few_shot"):
        found.append(_few_shot(results["few_shot"]))
    found.append(_confusion(results))
    calibration = results["calibration"]
    found.append(
        f"Calibration: expected error {100 * calibration['ece']:.1f} %, Brier score {calibration['brier']:.4f}, "
        f"log loss {calibration['log_loss']:.4f} nats"
    )
    return "\n\n".join(found)


def _head(results: Mapping[str, Any]) -> str:
    counts = results["data"]["counts"]
    sizes = ", ".join(f"{split} {sum(of.values()):,}" for split, of in counts.items())
    return f"{results['name']}: {len(results['classes'])} classes; {sizes} ({results['data']['split']})"


def _accuracies(results: Mapping[str, Any]) -> str:
    fit, best = results["all_units"], results["best_unit"]
    rows = [("all units", fit["test_accuracy"], fit["low"], fit["high"])]
    rows.append((f"unit {best['unit']} alone", best["test_accuracy"], None, None))
    if "baseline" in results:
        base = results["baseline"]
        rows.append((base["name"], base["test_accuracy"], base["low"], base["high"]))
    rows.append(("the largest class", results["majority"], None, None))
    width = max(len(row[0]) for row in rows)
    lines = ["accuracy on test, %, with 95 % intervals"]
    for name, accuracy, low, high in rows:
        interval = f"  {_percent(low)} to {_percent(high)}" if low is not None and high is not None else ""
        lines.append(f"  {name:<{width}}  {_percent(accuracy)}{interval}")
    if len(results["classes"]) > 2 or abs(fit["balanced_accuracy"] - fit["test_accuracy"]) > 0.01:
        lines.append(
            f"  all units: balanced accuracy {_percent(fit['balanced_accuracy'])}, macro F1 {_percent(fit['macro_f1'])}"
        )
    return "\n".join(lines)


def _few_shot(records: Sequence[Mapping[str, Any]]) -> str:
    sizes = sorted({record["labels"] for record in records})
    names = list(dict.fromkeys(record["learner"] for record in records))
    by_place = {(record["learner"], record["labels"]): record for record in records}
    width = max(len(name) for name in [*names, "labels"])
    lines = [f"{'labels':<{width}}  " + "  ".join(f"{size:>12,}" for size in sizes)]
    for name in names:
        cells = []
        for size in sizes:
            record = by_place[name, size]
            half = 50 * (record["high"] - record["low"])
            cells.append(f"{_percent(record['mean'])} ± {half:4.1f}".rjust(12))
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    return "\n".join(lines)


def _confusion(results: Mapping[str, Any]) -> str:
    names = [name[:16] for name in results["classes"]]
    if len(names) > 12:
        return f"The confusion of {len(names)} classes is in results.json."
    width = max(8, *(len(name) for name in names))
    lines = [f"{'true ↓':<{width}}" + "".join(f"  {name:>{width}}" for name in names)]
    for name, row in zip(names, results["confusion"], strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"  {count:>{width},}" for count in row))
    return "\n".join(lines)


def _table(name: str, heads: Sequence[str], cells: Sequence[str]) -> str:
    width = max(len(cell) for cell in [*heads, *cells])
    left = max(len(name), len("accuracy, %"))
    first = f"{name:<{left}}  " + "  ".join(f"{head:>{width}}" for head in heads)
    return first + "\n" + f"{'accuracy, %':<{left}}  " + "  ".join(f"{cell:>{width}}" for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
