"""``--parallel``: every recipe's plan fits its models, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.words import write_words

from overnight.comm import HiddenRows, Plan
from overnight.comm.strategies import row_plan
from overnight.errors import UserError
from overnight.recipes.byte_lm import byte_lm
from overnight.recipes.parallel import WAYS
from overnight.recipes.word_lm import word_lm
from overnight.recipes.word_presets import PRESETS
from overnight.train.build import build
from overnight.train.distributed import World
from overnight.train.run import Run

WORD_MODELS: dict[str, dict[str, Any]] = {
    **{preset: {"preset": preset} for preset in PRESETS if not preset.startswith("lm1b")},
    "lm1b": {"preset": "lm1b", "output": "sampled:20"},
    "tied": {"tied": True},
    "tied, sampled": {"tied": True, "output": "sampled:20"},
    "nce": {"output": "nce:20"},
    "adaptive": {"output": "adaptive:20", "gates": "factorized:4"},
    "grouped": {"gates": "grouped:4"},
    "adam": {"optimizer": "adam", "output": "sampled:20"},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "corpus")


def plan_of(run: Run) -> tuple[Plan, torch.nn.Module]:
    """The plan that the run's own arguments make, and the task whose parameters it names."""
    assert run.parallel is not None
    given = dict.fromkeys(("rows", "embeddings", "hidden"), ())
    defaults = {"random": 0.08, "frequent": 0.02, "touched": True, "rate": 0.5}
    return row_plan(**given | defaults | run.parallel.keywords), build(run, World(0, 1, torch.device("cpu"))).task


@pytest.mark.parametrize("settings", WORD_MODELS.values(), ids=WORD_MODELS)
def test_a_word_models_plan_fits_it(words: Path, settings: dict[str, Any]) -> None:
    run = word_lm(words, parallel="sampled", batch_size=4, lr=0.1, **settings)
    for name in ("embedding_size", "hidden_size"):
        run = run.with_setting(f"model.{name}=16")
    if run.model.keywords.get("projection"):
        run = run.with_setting("model.projection=16")
    plan, task = plan_of(run)
    plan.check(task.named_parameters())
    sparse = {"full": False, "adaptive": False}.get(run.model.keywords["output"].partition(":")[0], True)
    assert run.model.keywords["sparse"] == (
        run.optimizer.func.__module__ == "overnight.optim.rows" and (sparse or not settings.get("tied"))
    )


def test_a_byte_models_plan_is_half_of_its_units(corpus: Path) -> None:
    plan, task = plan_of(byte_lm(corpus, parallel="sampled").with_setting("model.hidden_size=16"))
    plan.check(task.named_parameters())
    assert plan.rule("model.layers.0.gates.m_to_gates.weight_v") == HiddenRows(0.5, blocks=4)
    assert plan.rule("model.layers.0.gates.hidden_to_m.weight_v") == HiddenRows(0.5, blocks=1)
    assert plan.rule("model.output.weight") is None


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_same_after_json(corpus: Path, words: Path, way: str) -> None:
    for run in (byte_lm(corpus, parallel=way), word_lm(words, parallel=way)):
        again = Run.from_json(json.loads(json.dumps(run.to_json())))
        assert run.to_json() == again.to_json()
        assert run.parallel is not None
        assert again.parallel is not None
        assert again.parallel.func is run.parallel.func


def test_a_way_that_there_is_not(corpus: Path, words: Path) -> None:
    with pytest.raises(UserError, match=r"^There is no --parallel 'sample'\. Did you mean sampled\?$"):
        byte_lm(corpus, parallel="sample")
    with pytest.raises(UserError, match=r"Choose one of ddp, fsdp, sampled, local, async\.$"):
        word_lm(words, parallel="rpc")
