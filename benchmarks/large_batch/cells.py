"""Trains the cells of the grid, each in a run folder, and reads them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.large_batch.applications import Application, Choice
from benchmarks.large_batch.arms import Arm, Cell, oracle_run
from benchmarks.large_batch.frozen import Frozen, Trial
from benchmarks.large_batch.optimizers import ORACLES
from overnight.errors import UserError
from overnight.train.folder import write_json
from overnight.train.launch import Options, train
from overnight.train.run import Run


@dataclass(frozen=True)
class Settings:
    """How cells are trained.

    Attributes:
        out: folder of all applications.
        corpus: what the application reads.
        threads: of the CPU; None leaves torch's choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        epochs: of a cell; None for the application's.
        trials, trial_epochs: of tuning; None for the application's.
    """

    out: Path
    corpus: Path
    threads: int | None = 1
    device: str = "auto"
    epochs: float | None = None
    trials: int | None = None
    trial_epochs: float | None = None


class InterruptedRunError(Exception):
    """A run was stopped from outside, and goes on when the same command is started again."""


def tune(app: Application, optimizer: str, settings: Settings, batch: int | None = None) -> None:
    """Tune an optimizer's rate, at the base batch unless another is given; not again what is frozen.

    Raises:
        UserError: for the application that is kept out of tuning.
    """
    if not app.tuned and batch is None:
        raise UserError(f"{app.name} is the application that nothing is tuned on.", "Take another with --tune.")
    folder = settings.out / app.name
    frozen = Frozen(app, folder)
    trials = settings.trials or app.trials
    epochs = settings.trial_epochs or app.trial_epochs
    at = app.batch if batch is None else batch

    def trial(lr: float) -> Trial:
        if batch is None:
            run = app.make(settings.corpus, Choice(optimizer, lr, _warmup(app, epochs), epochs, trial=True))
        else:
            run = oracle_run(app, settings.corpus, optimizer, lr, at, epochs, trial=True)
        where = folder / "trials" / f"{at}-{optimizer}-{lr:g}-{epochs:g}epochs"
        found = _trained(replace(run, evaluations=1), where, settings)
        # of translations the search for BLEU costs more than the trial
        name = "perplexity" if app.metric == "bleu" else app.metric
        score = None if found is None else float(found["final"][name])
        if score is not None and not (app.higher and name == app.metric):
            score = -score
        print(f"{app.name}: trial {where.name}: {'did not train' if score is None else f'{score:.5g}'}", flush=True)
        return Trial(lr, score)

    # MLPerf's tuned rates grew as the batch to the power of 0.30 to 0.56
    start = app.rates[optimizer] if batch is None else frozen.rate(optimizer) * (at / app.batch) ** (1 / 3)
    frozen.tune(optimizer, at, start, trials, epochs, trial)


def _warmup(app: Application, epochs: float) -> int:
    """As short a share of a trial as of a run."""
    return max(1, round(app.warmup_steps * min(1.0, epochs / app.epochs)))


def train_cell(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Train one cell, or read what it gave.

    Raises:
        UserError: for an arm that cannot be.
        InterruptedRunError: if the run was stopped.
    """
    folder = settings.out / cell.app.name
    if cell.arm.rule == "oracle":
        for optimizer in ORACLES:
            tune(cell.app, optimizer, settings, cell.batch)
    run = cell.run(settings.corpus, Frozen(cell.app, folder))
    _trained(run, folder / cell.name, settings)
    return read_cell(folder / cell.name, cell.app)


def _trained(run: Run, folder: Path, settings: Settings) -> dict[str, Any] | None:
    """The summary of a run that ended, trained or gone on with if need be; None for one that does not train."""
    if (folder / "failed.json").exists():
        return None
    path = folder / "summary.json"
    if not (path.exists() and json.loads(path.read_text())["state"] == "finished"):
        logged = max(1, 2560 // run.global_batch_size)
        run = replace(run, threads=settings.threads, log_every=min(run.log_every, logged))
        options = Options(
            resume=(folder / "run.json").exists(),
            device=settings.device,
            quiet=True,
            command=("python", "-m", "benchmarks.large_batch"),
        )
        run.check()
        try:
            ended = train(run, folder, options)
        except UserError as error:
            if not (folder / "run.json").exists():
                raise
            write_json(folder / "failed.json", {"problem": str(error)})
            return None
        if ended["state"] != "finished":
            raise InterruptedRunError(f"{folder.name}: {ended['reason']} Start the same command again to go on.")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def load(app: Application, out: Path) -> list[dict[str, Any]]:
    """All finished and failed cells of an application, by batch and arm."""
    folder = out / app.name
    ended = {path.parent for name in ("summary.json", "failed.json") for path in folder.glob(f"*/{name}")}
    found = [read_cell(path, app) for path in sorted(ended) if _ended(path)]
    return sorted(found, key=lambda one: (one["batch"], one["arm"], one["seed"]))


def _ended(folder: Path) -> bool:
    if (folder / "failed.json").exists():
        return True
    return bool(json.loads((folder / "summary.json").read_text())["state"] == "finished")


def read_cell(folder: Path, app: Application) -> dict[str, Any]:
    """What a cell gave: final and best quality, and where it first reached the target."""
    batch, what, seed = _parts(folder.name)
    written = json.loads((folder / "run.json").read_text())
    run, derived = written["run"], written["derived"]
    found: dict[str, Any] = {
        "app": app.name,
        "cell": folder.name,
        "batch": batch,
        "k": batch / app.batch,
        "arm": what,
        "seed": seed,
        "optimizer": run["optimizer"]["call"].rsplit(".", 1)[-1],
        "lr": run["optimizer"]["kwargs"]["lr"],
        "epochs_meant": run["epochs"],
        "threads": derived["threads"],
        "precision": derived["precision"],
        "device": derived["device"],
        "note": run["notes"][-1] if run["notes"] else "",
        "final": None,
    }
    warmup = run["schedule"]["kwargs"].get("warmup_samples", 0)
    found["warmup_steps"] = warmup / run["global_batch_size"]
    if (folder / "failed.json").exists():
        return found | {"failed": json.loads((folder / "failed.json").read_text())["problem"]}
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    decisions = _lines(folder / "decisions.jsonl")
    samples_per_epoch = derived["steps_per_epoch"] * run["global_batch_size"]
    values = [(line, line[app.metric]) for line in lines if line.get(app.metric) is not None]
    best = (max if app.higher else min)((value for _, value in values), default=None)
    reached = next((line for line, value in values if app.target is not None and _good(value, app)), None)
    found |= {
        "final": summary["final"].get(app.metric),
        "best": best,
        "epochs": summary["samples"] / samples_per_epoch,
        "updates": updates(decisions, batch, summary["step"]),
        "seconds": summary["seconds"],
        "curve": [[line["samples"] / samples_per_epoch, line["seconds"], value] for line, value in values],
        "epochs_to_target": reached and reached["samples"] / samples_per_epoch,
        "updates_to_target": reached and updates(decisions, batch, reached["step"]),
        "seconds_to_target": reached and reached["seconds"],
    }
    if decisions:
        over = next((one for one in decisions if one["what"] == "warmup" and one["new"] == "over"), None)
        found["warmup_steps"] = over["update"] if over is not None else 0
        found["rates"] = [one["new"] for one in decisions if one["what"] == "lr"]
        found["rollbacks"] = sum(one["what"] == "rollback" for one in decisions)
    return found


def _good(value: float, app: Application) -> bool:
    assert app.target is not None
    return value >= app.target if app.higher else value <= app.target


def updates(decisions: list[dict[str, Any]], batch: int, steps: int) -> int:
    """Updates of a run after so many batches of data; where the batch grew, a batch of data made several.

    >>> updates([], 64, 10)
    10
    >>> grown = [{"what": "global_batch_size", "old": 64, "new": 16, "update": 0, "step": 0},
    ...          {"what": "global_batch_size", "old": 16, "new": 64, "update": 20, "step": 5}]
    >>> updates(grown, 64, 3), updates(grown, 64, 10)
    (12, 25)
    """
    now, size, since = 0, batch, 0
    for one in decisions:
        if one["what"] != "global_batch_size" or one["step"] > steps:
            continue
        now += (one["step"] - since) * (batch // size)
        size, since = int(one["new"]), one["step"]
    return now + (steps - since) * (batch // size)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _parts(name: str) -> tuple[int, str, int]:
    batch, rest = name.split("-", 1)
    arm, seed = rest.rsplit("-", 1)
    return int(batch), str(Arm.parse(arm.replace("-", ":", 1))), int(seed)
