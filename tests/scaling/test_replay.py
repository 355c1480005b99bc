"""The replay of MLPerf's tables looks at the smallest row only, and reaches what it is there for."""

import importlib.util
import json
import os
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_of_mlperf", ROOT / "benchmarks" / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


def made_up(module: ModuleType) -> list[Any]:
    """Four tables by the law itself, whose critical batch is the warm-up in samples / 60."""
    tables = []
    for name, task, batch, steps in zip(
        module.TASKS, module.TASKS.values(), (64, 128, 256, 512), (90, 200, 150, 120), strict=True
    ):
        critical = batch * steps / 60
        rows = [
            module.Row(batch * k, 1e-3 * k**0.5, batch * steps * k, 10 * (1 + batch * k / critical), (0.9, 0.999))
            for k in (1, 2, 4, 8)
        ]
        tables.append(module.Table(name, task, rows))
    return tables


def test_larger_rows_are_not_looked_at(module: ModuleType) -> None:
    first, *others = made_up(module)
    spoilt = replace(first, rows=[first.rows[0], *(replace(r, lr=9.0, epochs=r.epochs * 7) for r in first.rows[1:])])
    before, after = module.replay(first, others), module.replay(spoilt, others)
    keys = ("batch", "rule", "lr", "warmup_samples", "epochs")
    assert [[row.get(key) for key in keys] for row in before["rows"]] == [
        [row.get(key) for key in keys] for row in after["rows"]
    ]
    assert before["blind"]["predicted"] == after["blind"]["predicted"]
    assert before["critical_batch"]["fitted"] != after["critical_batch"]["fitted"]


def test_a_law_that_holds_is_found(module: ModuleType) -> None:
    first, *others = made_up(module)
    result = module.replay(first, others)
    assert result["critical_batch"]["predicted"] == pytest.approx(first.rows[0].warmup_samples / 60, rel=0.01)
    assert result["blind"]["law"] == "warm-up in samples"
    assert max(row["epochs_error"] for row in result["rows"] if row["rule"] == "date") < 0.01


def test_on_mlperf(module: ModuleType) -> None:
    folder = os.environ.get("OVERNIGHT_DATA")
    if not folder:
        pytest.skip("OVERNIGHT_DATA is not set")
    raw = json.loads((Path(folder) / "mlperf" / "convergence.json").read_text())
    tables = [
        module.Table(name, task, sorted((module.row_of(row, task) for row in raw[name]), key=lambda row: row.batch))
        for name, task in module.TASKS.items()
    ]
    results = [module.replay(table, [other for other in tables if other is not table]) for table in tables]
    errors = {
        rule: [[row["epochs_error"] for row in result["rows"] if row["rule"] == rule] for result in results]
        for rule in ("date", "constant")
    }
    assert median(chain(*errors["date"])) < 0.15
    for ours, constant in zip(errors["date"], errors["constant"], strict=True):
        assert median(ours) < median(constant)
