"""`overnight probe`: a short training of a baseline, and what its scaling depends on."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from overnight.cli.baseline import BaselineOptions

if TYPE_CHECKING:
    from rich.table import Table

    from overnight.tune.record import Noise, Probe

USAGE = """usage: overnight probe RECIPE [ARGUMENTS]   train the tuned baseline a short while and measure
       overnight probe RUN                   go on from a run's checkpoint; the run is not touched

Recipes: {recipes} (overnight probe RECIPE --help says what it takes)."""
SHOWN = 12


@dataclass(frozen=True)
class Options(BaselineOptions):
    """Train a short while with the measurements on: gradient noise scale, relative step, clip rate, samples a second
    against batch. `overnight scale --probe FILE` plans with it."""

    steps: Annotated[
        int | None, tyro.conf.arg(help="Train so many updates (400), of which the second half is measured.")
    ] = None
    minutes: Annotated[float | None, tyro.conf.arg(help="Train about so long instead.")] = None
    out: Annotated[Path | None, tyro.conf.arg(help="JSON file to write.")] = None
    branches: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Also train branches at 1, 2, 4 and 8 times the batch: the critical batch itself. Slow."),
    ] = False
    branch_steps: Annotated[int | None, tyro.conf.arg(help="Updates of the branch at the baseline's batch.")] = None
    throughput_seconds: Annotated[float, tyro.conf.arg(help="About how long to try batches for speed; 0 for not.")] = (
        60.0
    )
    largest_batch: Annotated[
        int | None, tyro.conf.arg(help="Try batches up to this one for speed, whatever it takes.")
    ] = None
    checkpoint: Annotated[str, tyro.conf.arg(help="Of a run: last, best or a step.")] = "last"
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda.")] = "auto"


def main(argv: list[str]) -> int:
    """Parse, probe, print, write."""
    from overnight.recipes import RECIPES

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(RECIPES)))
        return 0
    from overnight.cli.baseline import apply_settings, check_out, parse, write_json

    options, build, folder = parse("probe", Options, argv)

    from overnight.tune.probing import Probing, probe

    how = Probing(
        steps=options.steps,
        minutes=options.minutes,
        folder=folder,
        checkpoint=options.checkpoint,
        device=options.device,
        throughput_seconds=options.throughput_seconds,
        largest_batch=options.largest_batch,
        branches=options.branches,
        branch_steps=options.branch_steps,
    )
    how.check()
    check_out(options.out)
    found = probe(apply_settings(build(), options.set), how, lambda line: print(line, file=sys.stderr, flush=True))
    if os.environ.get("RANK", "0") != "0":
        return 0
    if options.out is not None:
        write_json(options.out, found.to_json())
    _show(found)
    if options.out is not None:
        print(f"written     {options.out}\nplan        overnight scale {argv[0]} … --to BATCH --probe {options.out}")
    return 0


def _show(found: "Probe") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"{found.recipe} at batch {found.global_batch_size:,} (micro-batches of {found.micro_batch_size:,}, "
        f"{found.world_size} rank{'s' * (found.world_size > 1)}), {found.device}, {found.precision}: "
        f"step {found.step:,}, loss {found.loss[0]:.3f} → {found.loss[1]:.3f} nats",
        soft_wrap=True,
    )
    console.print(_noise(found))
    clip = "nothing is clipped"
    if found.clip is not None:
        clip = f"{found.clip[0]:.0%} of the steps are clipped; the mean factor of all is {found.clip[1]:.2f}"
    moving = [value for value in found.layers.values() if value > 0]
    spread = max(moving) / min(moving) if moving else 1.0
    console.print(
        f"a step moves the weights by {found.relative_step:.2%}, layers differ {spread:.0f}-fold; {clip}",
        soft_wrap=True,
    )
    console.print(_layers(found))
    if found.throughput is not None:
        console.print(_throughput(found))


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table()
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _noise(found: "Probe") -> "Table":
    table = _table("samples", "estimate", "from", "to", "usable")
    rows = {
        "noise scale": found.noise,
        "preconditioned": found.preconditioned,
        "critical batch (branches)": found.critical_batch,
    }
    for name, noise in rows.items():
        if noise is not None:
            table.add_row(name, *_row(noise))
    return table


def _row(noise: "Noise") -> list[str]:
    return [*(_number(value) for value in (noise.noise_scale, noise.low, noise.high)), "yes" if noise.usable else "no"]


def _layers(found: "Probe") -> "Table":
    noise = found.preconditioned or found.noise
    table = _table("layer", "noise scale", "from", "to", "usable", "‖Δw‖/‖w‖")
    for name in list(found.layers)[:SHOWN]:
        layer = noise.layers.get(name)
        table.add_row(name, *(_row(layer) if layer is not None else [""] * 4), f"{found.layers[name]:.2%}")
    if len(found.layers) > SHOWN:
        table.add_row(f"… {len(found.layers) - SHOWN} more in the file", *[""] * 5)
    return table


def _throughput(found: "Probe") -> "Table":
    assert found.throughput is not None
    curve, table = found.throughput, _table("batch", "ms a step", "samples/s", "memory")
    for point in curve.points:
        memory = "" if point.memory_bytes is None else f"{point.memory_bytes / 2**30:.2f} GiB"
        table.add_row(f"{point.batch:,}", f"{1e3 * point.seconds:,.1f}", f"{point.samples_per_second:,.0f}", memory)
    end = "the largest that fits" if curve.stopped_by == "memory" else "the largest that was tried"
    table.caption = f"{curve.largest_batch:,} is {end}"
    return table


def _number(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:,.0f}"
