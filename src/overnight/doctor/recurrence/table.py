"""From the turns of a race to ratios, and to a table for the terminal."""

import statistics
from dataclasses import asdict, replace
from typing import Any

from overnight.doctor.recurrence.rivals import Case

DIRECTIONS = ("forward", "forward_backward")


def rows_of(case: Case, turns: dict[str, list[tuple[float, ...]]], peaks: dict[str, float]) -> list[dict[str, Any]]:
    """Medians of each contestant, its ratios to the rivals and its rates; plain data."""
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in turns.items()
        if found
    }
    rows = []
    for name, median in medians.items():
        what, _, precision = name.partition(" ")
        # nn.LSTM's arithmetic is that of the dense map
        itself = replace(case, gates="dense") if what == "nn.LSTM" else case
        rivals = ["naive fp32", "naive bf16"] + [f"products {precision}"] * (itself == case)
        row: dict[str, Any] = {"name": name, "precision": precision, **asdict(case), "rounds": len(turns[name])}
        for i, direction in enumerate(DIRECTIONS):
            rate = itself.flops(backward=i == 1) / median[i]
            row[direction] = {
                "median_s": median[i], "least_s": min(turn[i] for turn in turns[name]),
                "steps_per_s": case.steps / median[i], "gflops": rate / 1e9, "share_of_peak": rate / peaks[precision],
            }  # fmt: skip
            for rival in rivals:
                if rival in medians:
                    row[direction][f"speed_to_{rival.replace(' ', '_')}"] = medians[rival][i] / median[i]
        row["peak_bytes"] = int(median[2])
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print one race; nothing of one that did not fit into memory."""
    if not rows:
        print("not raced: no contestant fits into memory")
        return
    case = rows[0]
    projected = "-projected" if case["output"] != case["hidden"] else ""
    print(
        f"{case['gates']}{projected}: {case['hidden']} units, h {case['output']}, input {case['width']}, "
        f"batch {case['batch']}, {case['time']} steps; steps (bytes, words) a second:"
    )
    print(f"  {'':<16}{'forward':>12}{'fwd + bwd':>12}{'ms':>9}{'naive fp32':>12}{'naive bf16':>12}"
          f"{'GFLOP/s':>10}{'floor':>8}{'peak':>7}{'memory':>10}")  # fmt: skip
    for row in rows:
        both = row["forward_backward"]
        ratios = [both.get(f"speed_to_naive_{precision}") for precision in ("fp32", "bf16")]
        floor = both.get(f"speed_to_products_{row['precision']}")
        said = [f"{ratio:.2f}x" if ratio else "" for ratio in ratios] + [f"{both['gflops']:,.0f}"]
        said += [f"{floor:.0%}" if floor else "", f"{both['share_of_peak']:.0%}"]
        memory = f"{row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else ""
        print(f"  {row['name']:<16}{row['forward']['steps_per_s']:>12,.0f}{both['steps_per_s']:>12,.0f}"
              f"{both['median_s'] * 1e3:>9,.1f}{said[0]:>12}{said[1]:>12}{said[2]:>10}{said[3]:>8}{said[4]:>7}"
              f"{memory:>10}", flush=True)  # fmt: skip
