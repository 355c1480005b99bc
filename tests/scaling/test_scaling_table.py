"""benchmarks/scaling_table.py: published rows from the smallest machine's, and how far the model is off."""

import runpy
from pathlib import Path
from typing import Any

import pytest

TABLE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scaling_table.py"))


def test_steps_are_those_of_the_recipe() -> None:
    """``--preset large`` at each batch of the ladder takes the steps that the table is predicted with."""
    from overnight.recipes.bert_presets import PRESETS, phase_steps

    large = PRESETS["large"]
    for row in TABLE["BERT"].rows:
        for phase, given in enumerate(row.phases, 1):
            assert given.steps == pytest.approx(phase_steps(large, phase, given.batch), abs=1)
    assert sum(phase.steps for phase in TABLE["BERT"].rows[-1].phases) == 8599


def test_a_table_that_the_model_made_is_predicted() -> None:
    link, model = TABLE["link_of"](100.0, 5.0), TABLE["StepTime"](link_overhead=1.0)
    made = [TABLE["replace"](row, minutes=TABLE["minutes"](row, 10**8, link, 3.0, model)) for row in TABLE["BERT"].rows]
    table = TABLE["Table"]("made", 10**8, tuple(made))
    assert TABLE["sample_ms"](made[0], 10**8, link, model) == pytest.approx(3.0, rel=1e-9)
    for row in TABLE["predict"](table, link):
        assert row.error == pytest.approx(0.0, abs=1e-9)


def test_the_published_tables() -> None:
    """What docs/step_time.md says of them."""
    link = TABLE["link_of"](656.0, 1.0)
    bert = {row.row: row for row in TABLE["predict"](TABLE["BERT"], link)}
    said = {"1K": -4, "2K": -3, "4K": -10, "8K": -20, "16K": -22, "32K": -22, "64K/32K": -2}
    assert {name: round(100 * row.error) for name, row in bert.items()} == said
    assert [round(100 * row.error) for row in TABLE["predict"](TABLE["RESNET"], link)] == [-21, 27]
    assert [round(found) for found in TABLE["fixed_ms"](TABLE["BERT"])] == [214, 389]
