"""`overnight scale`: a tuned baseline at another batch: the recipe, what it will cost, and why."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from overnight.cli.baseline import BaselineOptions
from overnight.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from overnight.tune.plan import Plan
    from overnight.tune.target import Target

USAGE = """usage: overnight scale RECIPE [ARGUMENTS] --to BATCH [BATCH …]   from the recipe's tuned baseline
       overnight scale RUN --to BATCH [BATCH …]                 from a run that works; or from its run.json

Recipes: {recipes} (overnight scale RECIPE --help says what it takes)."""


@dataclass(frozen=True)
class Options(BaselineOptions):
    """From a baseline that is tuned at its batch to a full recipe at other batches, with no tuning: what changes and
    why, what it will take, where returns end. Nothing is trained."""

    to: Annotated[tuple[int, ...], tyro.conf.arg(metavar="BATCH [BATCH …]", help="New batches.")]
    rule: Annotated[
        Literal["none", "linear", "sqrt", "legw", "adam_sde", "adascale", "date"],
        tyro.conf.arg(help="How the rest follows the batch (docs/scaling.md)."),
    ] = "date"
    online: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Of date: let the run go on measuring, and follow what it finds (docs/methods/date.md)."),
    ] = False
    probe: Annotated[Path | None, tyro.conf.arg(help="What overnight probe measured of this baseline.")] = None
    devices: Annotated[int, tyro.conf.arg(help="Plan for so many devices like the probe's too.")] = 1
    link: Annotated[str | None, tyro.conf.arg(help="Between them: 100M, 1G, 10G, 100G, ndr, nvlink4, … .")] = None
    out: Annotated[
        Path | None,
        tyro.conf.arg(help="File of the new run (for several batches FILE-BATCH.json); beside it a page of why."),
    ] = None


def main(argv: list[str]) -> int:
    """Parse, plan, print, write."""
    from overnight.recipes import RECIPES

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(RECIPES)))
        return 0
    from overnight.cli.baseline import apply_settings, check_out, parse

    if any(argument.split("=")[0] in ("--batch-size", "--batch_size") for argument in argv[1:]):
        raise UserError(
            "--batch-size would move the baseline, which is tuned at its own.", "Say the new one with --to."
        )
    options, build, _ = parse("scale", Options, argv, without=("batch_size",))
    if options.rule != "none" and any(argument.split("=")[0] == "--lr" for argument in argv[1:]):
        raise UserError(
            f"--lr gives the rate, and the rule {options.rule} derives it from the tuned one.",
            "Leave out --lr, or take --rule none.",
        )
    if options.out is not None and options.out.suffix != ".json":
        raise UserError(f"{options.out} is no name for a run's file.", "Let it end in .json.")
    check_out(options.out)

    from overnight.tune.plan import scale
    from overnight.tune.record import read_probe

    plan = scale(
        apply_settings(build(), options.set),
        options.to,
        rule=options.rule,
        probe=None if options.probe is None else read_probe(options.probe),
        devices=options.devices,
        link=options.link,
        fixed=options.set,
        online=options.online,
    )
    from rich.console import Console

    console = Console(highlight=False)
    _show(plan, console)
    if options.out is not None:
        _write(plan, options.out, argv, console)
    return 0


def _show(plan: "Plan", console: "Console") -> None:
    base = plan.baseline.tuned
    console.print(
        f"{plan.baseline.run.recipe}, {plan.baseline.optimizer}, tuned at batch {base.global_batch_size:,}; "
        f"rule {plan.rule}{_critical(plan)}",
        soft_wrap=True,
    )
    for target in plan.targets:
        _settings(target, console)
    _costs(plan, console)
    for name, batch in _ends(plan).items():
        said = f"from batch {batch:,} on" if batch is not None else "beyond the batches that were looked at"
        console.print(f"returns end {name}: {said} (twice the batch saves less than a tenth)", soft_wrap=True)
    for note in plan.notes:
        console.print(f"note        {note}", soft_wrap=True)


def _critical(plan: "Plan") -> str:
    if plan.critical is None:
        return ""
    low, high = ("∞" if plan.critical[name] is None else f"{plan.critical[name]:,.0f}" for name in ("low", "high"))
    scale = plan.critical["noise_scale"]
    return f"; {plan.critical['what']} {'∞' if scale is None else f'{scale:,.0f}'} ({low} to {high})"


def _settings(target: "Target", console: "Console") -> None:
    from rich.table import Table

    table = Table(title=f"batch {target.hyperparameters.global_batch_size:,} (k = {target.k:g})", title_justify="left")
    for name in ("", "baseline", "here", "why", "reference"):
        table.add_column(name, overflow="fold")
    for row in target.settings:
        style = "bold" if row.before != row.after else ""
        table.add_row(row.name, row.before, row.after, row.why, row.reference, style=style)
    console.print(table)
    for risk in target.risks:
        console.print(f"risk        {risk}", soft_wrap=True)


def _costs(plan: "Plan", console: "Console") -> None:
    from rich.table import Table

    table = Table(title="as planned, and what the law says the baseline's quality takes", title_justify="left")
    names = ["batch", "k", "epochs", "steps", "hours"]
    if plan.devices > 1:
        names.append(f"hours on {plan.devices}")
    names += ["epochs by law", "steps by law", "micro-batch"]
    for name in names:
        table.add_column(name, justify="right")
    for target in plan.targets:
        costs = target.costs
        cells = [
            f"{target.hyperparameters.global_batch_size:,}",
            f"{target.k:g}",
            _number(costs["planned_epochs"], 2),
            _number(costs["planned_steps"], 0),
            _number(costs["planned_hours"], 3),
        ]
        if plan.devices > 1:
            cells.append(_range(costs["planned_shared_hours"]))
        cells += [_number(costs["epochs"], 2), _number(costs["steps"], 0)]
        table.add_row(
            *cells, f"{target.run.micro_batch_size or target.hyperparameters.global_batch_size // plan.devices:,}"
        )
    console.print(table)


def _ends(plan: "Plan") -> dict[str, int | None]:
    found = {}
    if any(rung["steps"] is not None for rung in plan.rungs):
        found["in steps"] = plan.ends["steps"]
    if any(rung["hours"] is not None for rung in plan.rungs):
        found["in hours on one device"] = plan.ends["hours"]
        if plan.devices > 1:
            found[f"in hours on {plan.devices} devices over {plan.link}"] = plan.ends["shared_hours"]
    return found


def _write(plan: "Plan", out: Path, argv: list[str], console: "Console") -> None:
    import overnight
    from overnight.cli.baseline import write_json
    from overnight.report.why import write_plan
    from overnight.train.run import FORMAT

    several = len(plan.targets) > 1
    whole = plan.to_json()
    for target in plan.targets:
        batch = target.hyperparameters.global_batch_size
        path = out.with_name(f"{out.stem}-{batch}.json") if several else out
        record: dict[str, Any] = {
            "format": FORMAT,
            "overnight": overnight.__version__,
            "recipe": target.run.recipe,
            "command": ["overnight", "scale", *argv],
            "run": target.run.to_json(),
            "plan": whole,
        }
        write_json(path, record)
        console.print(f"train       overnight train {path}", soft_wrap=True, markup=False)
    try:
        page = write_plan(whole, out.with_suffix(".html"), ("overnight", "scale", *argv))
        console.print(f"why         {page}", soft_wrap=True, markup=False)
    except UserError as error:
        print(f"no page: {error}", file=sys.stderr)


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:,.{digits}f}"


def _range(values: list[float] | None) -> str:
    if values is None or None in values:
        return "—"
    low, high = (f"{value:,.3f}" for value in values)
    return low if low == high else f"{low} to {high}"
