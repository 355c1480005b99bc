"""MLPerf's convergence tables, replayed: from the smallest batch's row to rate, warm-up and epochs of the others.

    OVERNIGHT_DATA=… python benchmarks/replay.py [--out benchmarks/out/replay.json]

No training. Of a table only the row with the smallest batch is used: its batch, rate, warm-up, betas and mean epochs to
the target, and beside it what is public of the task (samples of an epoch, the optimizer, whether the run starts from a
checkpoint). ``rules`` of the package turn that into the larger rows.

The rules that know a critical batch need one. No row states it, so it comes from the *other* tables: E(B) = Emin (1 +
B/Bc) is fitted to each of them, their Bc is divided by a quantity that the smallest row has, and the geometric mean of
these quotients times the held-out table's own quantity is its predicted Bc. ``LAWS`` are the quantities that were
tried; ``chosen`` is the one in use: the warm-up in samples, or, where there is no warm-up, no quantity at all (the
geometric mean of the other tables' Bc). That choice was made with all four tables in view, and four tables cannot
confirm it. ``blind`` chooses for each table by leave-one-out among the other three only. Everything is in the output.

Errors are |predicted / published - 1|. Published rows were tuned by several companies, so their own fit has errors too:
``fit`` is E(B) fitted to the table itself, which no prediction from one row can be expected to beat.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

from overnight.scaling import Hyperparameters, Scaled, rules
from overnight.scaling.convergence import epochs_ratio, fit_convergence


@dataclass(frozen=True)
class Task:
    """What is public of a task beside its rows.

    Attributes:
        samples_per_epoch: 1 where the table counts samples.
        scratch: training starts from random weights, so the samples to the target are all that it saw.
    """

    samples_per_epoch: float
    scratch: bool = True


TASKS = {
    "gnmt": Task(3.5e6),  # WMT16 en-de after filtering, to two digits
    "rnnt": Task(281_241),  # LibriSpeech, 960 hours
    "bert": Task(1.0, scratch=False),
    "resnet": Task(1_281_167),  # ImageNet
}


@dataclass(frozen=True)
class Row:
    """One batch of a table."""

    batch: int
    lr: float
    warmup_samples: float
    epochs: float
    betas: tuple[float, float] | None


def row_of(raw: dict[str, Any], task: Task) -> Row:
    settings = raw["hyperparameters"]
    batch = int(raw["batch_size"])
    if "opt_learning_rate_warmup_epochs" in settings:
        warmup = settings["opt_learning_rate_warmup_epochs"] * task.samples_per_epoch
    else:
        warmup = settings.get("opt_learning_rate_warmup_steps", settings.get("num_warmup_steps", 0)) * batch
    betas = None
    if "opt_lamb_beta_1" in settings:
        betas = (settings["opt_lamb_beta_1"], settings["opt_lamb_beta_2"])
    elif settings.get("opt_name") == "adam":
        betas = (0.9, 0.999)  # not in the table: Adam's defaults
    return Row(batch, settings["opt_base_learning_rate"], warmup, mean(raw["epochs_to_converge"]), betas)


@dataclass(frozen=True)
class Table:
    """The rows of a task, smallest batch first; ``first`` is what a prediction may look at."""

    name: str
    task: Task
    rows: Sequence[Row]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def samples(self) -> float:
        """To the target, at the smallest batch."""
        return self.first.epochs * self.task.samples_per_epoch

    @cached_property
    def fitted(self) -> float:
        """Bc of all the rows: for calibrating predictions of *other* tables only."""
        return fit_convergence([row.batch for row in self.rows], [row.epochs for row in self.rows]).critical_batch


Law = Callable[[Table], float | None]
LAWS: dict[str, Law] = {
    "none": lambda table: 1.0,
    "smallest batch": lambda table: float(table.first.batch),
    "samples of an epoch": lambda table: table.task.samples_per_epoch if table.task.scratch else None,
    "samples to the target": lambda table: table.samples,
    "root of the samples to the target": lambda table: math.sqrt(table.samples),
    "steps to the target": lambda table: table.samples / table.first.batch,
    "warm-up in samples": lambda table: table.first.warmup_samples or None,
}


def predicted(law: str, table: Table, others: Sequence[Table]) -> float | None:
    """Bc of a table by a law that is calibrated on the others; None where it says nothing."""
    own = LAWS[law](table)
    known = [(other.fitted, LAWS[law](other)) for other in others]
    logs = [math.log(fitted / quantity) for fitted, quantity in known if quantity]
    return own * math.exp(mean(logs)) if own and logs else None


def chosen(table: Table, others: Sequence[Table]) -> tuple[str, float]:
    for law in ("warm-up in samples", "none"):
        found = predicted(law, table, others)
        if found is not None:
            return law, found
    raise AssertionError("the law without a quantity always speaks")


def blind(table: Table, others: Sequence[Table]) -> tuple[str, float]:
    """The law with the least mean |log error| when each other table is predicted from the rest of them."""
    scores = {}
    for law in LAWS:
        if predicted(law, table, others) is None:
            continue
        tries = [(other, predicted(law, other, [o for o in others if o is not other])) for other in others]
        errors = [abs(math.log(found / other.fitted)) for other, found in tries if found is not None]
        if errors:
            scores[law] = mean(errors)
    law = min(scores, key=lambda name: scores[name])
    found = predicted(law, table, others)
    assert found is not None
    return law, found


def tuned(table: Table) -> Hyperparameters:
    first = table.first
    # the length is left to each rule's epochs: a rule that would warm up beyond it is told so, not stopped
    return Hyperparameters(first.lr, first.batch, first.warmup_samples, betas=first.betas)


def arms(table: Table, critical: float) -> dict[str, Callable[[int], Scaled]]:
    """Rules by name: batch → what to set. ``ours`` needs the length for its bound on the warm-up."""
    base = tuned(table)
    lasting = Hyperparameters(
        base.lr, base.global_batch_size, min(base.warmup_samples, table.samples), table.samples, betas=base.betas
    )
    return {
        "constant": lambda batch: rules.none(base, global_batch_size=batch),
        "linear": lambda batch: rules.linear(base, global_batch_size=batch),
        "sqrt": lambda batch: rules.sqrt(base, global_batch_size=batch),
        "legw": lambda batch: rules.legw(base, global_batch_size=batch),
        "adam_sde": lambda batch: rules.adam_sde(base, global_batch_size=batch),
        "adascale": lambda batch: rules.adascale(lasting, global_batch_size=batch, noise_scale=critical),
        "date": lambda batch: rules.date(lasting, global_batch_size=batch, noise_scale=critical),
    }


def error(found: float, published: float) -> float:
    if published == 0.0:
        return 0.0 if found == 0.0 else math.inf
    return abs(found / published - 1.0)


def replay(table: Table, others: Sequence[Table]) -> dict[str, Any]:
    """Every rule on every larger row of one table."""
    law, critical = chosen(table, others)
    blind_law, blind_critical = blind(table, others)
    fit = fit_convergence([row.batch for row in table.rows], [row.epochs for row in table.rows])
    rows: list[dict[str, Any]] = []
    for row in table.rows[1:]:
        for name, rule in arms(table, critical).items():
            try:
                new = rule(row.batch).hyperparameters
            except ValueError as reason:
                rows.append({"batch": row.batch, "rule": name, "says_nothing": str(reason)})
                continue
            longer = 1.0 if new.total_samples is None else new.total_samples / table.samples
            found = {"lr": new.lr, "warmup_samples": new.warmup_samples, "epochs": table.first.epochs * longer}
            rows.append(
                {
                    "batch": row.batch,
                    "rule": name,
                    **found,
                    **{f"{key}_published": getattr(row, key) for key in found},
                    **{f"{key}_error": error(value, getattr(row, key)) for key, value in found.items()},
                }
            )
    k = [row.batch / table.first.batch for row in table.rows[1:]]
    laws = {}
    for name in LAWS:
        batch = predicted(name, table, others)
        errors = _epoch_errors(table, k, batch) if batch is not None else None
        laws[name] = {"critical_batch": batch, "epochs_error": median(errors) if errors else None}
    return {
        "table": table.name,
        "from": {"batch": table.first.batch, "lr": table.first.lr, "warmup_samples": table.first.warmup_samples,
                 "epochs": table.first.epochs, "betas": table.first.betas},
        "critical_batch": {"law": law, "predicted": critical, "fitted": fit.critical_batch,
                           "fitted_low": fit.low, "fitted_high": fit.high},
        "blind": {"law": blind_law, "predicted": blind_critical,
                  "epochs_errors": _epoch_errors(table, k, blind_critical)},
        "fit_epochs_error": median(error(fit.epochs(row.batch), row.epochs) for row in table.rows[1:]),
        "laws": laws,
        "rows": rows,
    }  # fmt: skip


def _epoch_errors(table: Table, k: Sequence[float], critical: float) -> list[float]:
    first = table.first
    found = [first.epochs * epochs_ratio(critical, first.batch, factor) for factor in k]
    return [error(e, row.epochs) for e, row in zip(found, table.rows[1:], strict=True)]


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median error by rule, quantity and table; ``all`` over the rows of all tables."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for rule in ("constant", "linear", "sqrt", "legw", "adam_sde", "adascale", "date"):
        for key in ("lr", "warmup_samples", "epochs"):
            everything: list[float] = []
            for result in results:
                errors = [row[f"{key}_error"] for row in result["rows"] if row["rule"] == rule and "lr" in row]
                if errors:
                    found.setdefault(rule, {}).setdefault(key, {})[result["table"]] = median(errors)
                everything += errors
            if everything:
                found[rule][key]["all"] = median(everything)
    return found


def show(results: Sequence[dict[str, Any]], medians: dict[str, dict[str, dict[str, float]]]) -> None:
    for result in results:
        critical, other = result["critical_batch"], result["blind"]
        print(
            f"{result['table']:<7} Bc {critical['predicted']:8,.0f} by {critical['law']} "
            f"(fitted to the table {critical['fitted']:,.0f}; blind choice {other['predicted']:,.0f} by {other['law']})"
        )
        for row in result["rows"]:
            if row["rule"] == "date":
                print(
                    f"   batch {row['batch']:6d}  epochs {row['epochs']:12,.1f} ({row['epochs_published']:,.1f})  "
                    f"rate {row['lr']:.3g} ({row['lr_published']:.3g})  warm-up {row['warmup_samples']:,.0f} "
                    f"({row['warmup_samples_published']:,.0f}) samples"
                )
    tables = [result["table"] for result in results]
    for key in ("epochs", "lr", "warmup_samples"):
        print(f"\nmedian error of {key}, %\n{'rule':<10}" + "".join(f"{name:>9}" for name in [*tables, "all"]))
        for rule, values in medians.items():
            cells = [values[key].get(name) for name in [*tables, "all"]]
            print(f"{rule:<10}" + "".join("        -" if cell is None else f"{cell:9.1%}" for cell in cells))
    silent = sum("says_nothing" in row for result in results for row in result["rows"])
    print(f"(adam_sde says nothing on {silent} rows)")
    print("\nmedian error of epochs by what the critical batch is taken to be proportional to, %")
    for law in LAWS:
        cells = [result["laws"][law]["epochs_error"] for result in results]
        print(f"{law:<34}" + "".join("        -" if cell is None else f"{cell:9.1%}" for cell in cells))
    errors = [result["blind"]["epochs_errors"] for result in results]
    print(f"{'blind':<34}" + "".join(f"{median(cell):9.1%}" for cell in errors) + f"{median(chain(*errors)):9.1%}")
    fits = [result["fit_epochs_error"] for result in results]
    print(f"{'(fitted to the table itself)':<34}" + "".join(f"{cell:9.1%}" for cell in fits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/replay.json"))
    options = parser.parse_args()
    path = Path(os.environ.get("OVERNIGHT_DATA", ".")) / "mlperf" / "convergence.json"
    if not path.exists():
        raise SystemExit(f"There is no {path}: set OVERNIGHT_DATA to the folder that has mlperf/convergence.json.")
    raw = json.loads(path.read_text(encoding="utf-8"))
    tables = [
        Table(name, task, sorted((row_of(row, task) for row in raw[name]), key=lambda row: row.batch))
        for name, task in TASKS.items()
    ]
    results = [replay(table, [other for other in tables if other is not table]) for table in tables]
    medians = summary(results)
    show(results, medians)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "python": platform.python_version(), "medians": medians, "results": results,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
