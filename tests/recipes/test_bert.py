"""BERT's recipe: the paper's ladder and phases, that runs go on exactly, and what it refuses."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.reviews import write_reviews

from overnight.cli import main
from overnight.data.masked import MaskedCorpus
from overnight.errors import UserError
from overnight.evaluate.masked import heldout_batches
from overnight.exchange.exporting import export_model
from overnight.models.bert import BERT
from overnight.recipes.bert import bert
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

transformers: Any = pytest.importorskip("transformers", reason="needs the extra bert")
QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))
SMALL = {"precision": "fp32", "threads": 1}


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("bert") / "corpus", train=120)


def small(run: Run, **changes: Any) -> Run:
    """The recipe as it is, in the same numbers everywhere."""
    for name, value in SMALL.items():
        run = run.with_setting(f"{name}={value}")
    return replace(run, **changes)


def trained(corpus: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    run = bert(corpus, **{"batch_size": 12, "steps": 6, "warmup_steps": 2, "length": 32, "evaluations": 1, **settings})
    return train(small(run), folder, QUIET)


@pytest.mark.parametrize(
    ("batch", "halvings", "steps"),
    [
        (512, 3.0, 900_000),
        (1024, 2.5, 450_000),
        (2048, 2.0, 225_000),
        (4096, 1.5, 112_500),
        (8192, 1.0, 56_250),
        (16_384, 0.5, 28_125),
        (32_768, 0.0, 14_063),
    ],
)
@pytest.mark.parametrize("preset", ["base", "large"])
def test_the_ladder_of_untuned_rates(reviews: Path, preset: str, batch: int, halvings: float, steps: int) -> None:
    """5e-3 / 2^3.0 to 5e-3 / 2^0 and 3,125 steps of warm-up at every batch (table of You et al. 2020)."""
    run = bert(reviews, preset=preset, batch_size=batch)
    assert run.optimizer.keywords["lr"] == pytest.approx(5e-3 / 2**halvings, rel=1e-12)
    assert run.schedule.keywords["warmup_samples"] == 3125 * batch
    assert (run.steps, run.data.keywords["length"]) == (steps, 128)
    assert (run.optimizer.keywords["betas"], run.optimizer.keywords["eps"]) == ((0.9, 0.999), 1e-6)
    assert run.param_groups is not None
    assert run.param_groups.keywords["weight_decay"] == 0.01


def test_the_papers_76_minutes(reviews: Path, tmp_path: Path) -> None:
    """64K for 7,037 steps, then 32K for 1,562 steps of 512 word pieces, with a warm-up of its own."""
    first = bert(reviews, preset="large")
    assert (first.global_batch_size, first.steps) == (65_536, 7037)
    trained(reviews, tmp_path / "one")
    (tmp_path / "one" / "run.json").write_text(
        json.dumps(_as_large(json.loads((tmp_path / "one" / "run.json").read_text())))
    )
    second = bert(reviews, preset="large", phase=2, from_=tmp_path / "one")
    assert (second.global_batch_size, second.steps, second.data.keywords["length"]) == (32_768, 1562, 512)
    assert second.optimizer.keywords["lr"] == pytest.approx(5e-3)
    assert second.schedule.keywords["warmup_samples"] == 312 * 32_768
    assert bert(reviews, preset="large", phase=2, from_=tmp_path / "one", batch_size=512).steps == 100_000


def _as_large(settings: dict[str, Any]) -> dict[str, Any]:
    settings["run"]["model"]["kwargs"] |= {"hidden_size": 1024, "num_layers": 24, "num_heads": 16}
    return settings


def test_norms_and_biases_are_neither_decayed_nor_adapted(reviews: Path) -> None:
    parts = build(small(bert(reviews, batch_size=12, steps=200)), ALONE)
    names = {
        (group["weight_decay"], group.get("adapt", True)): group["param_names"]
        for group in parts.optimizer.param_groups
    }
    apart = names[0.0, False]
    assert all(name.endswith("bias") or "LayerNorm" in name for name in apart)
    assert not any(name.endswith("bias") or "LayerNorm" in name for name in names[0.01, True])
    assert len(names) == 2


def test_phase_2_goes_on_with_weights_and_moments(reviews: Path, tmp_path: Path) -> None:
    summary = trained(reviews, tmp_path / "one")
    assert 0.0 <= summary["final"]["masked_accuracy"] <= 1.0
    assert 0.0 <= summary["final"]["next_sentence_accuracy"] <= 1.0
    made = heldout_batches(str(reviews), "valid", length=32)
    target_M, stream = made.at(0, 0, made.rows).target_M, MaskedCorpus(reviews).split("train")
    counts = Counter(one for one in stream.read(0, len(stream)).tolist() if one > 4)  # the marks come first
    best = max(counts, key=lambda one: (counts[one], -one))
    named = f"the most frequent word piece, {made.pieces.words[best]}"
    assert summary["baselines"] == [{"name": named, "masked_accuracy": float((target_M == best).double().mean())}]
    second = small(bert(reviews, phase=2, from_=tmp_path / "one", batch_size=6, steps=4, warmup_steps=1, length=48))
    train(replace(second, steps=1, evaluations=0, checkpoint_steps=1), tmp_path / "two", QUIET)
    before = load_checkpoint(tmp_path / "one" / "checkpoints" / "00000006")
    after = load_checkpoint(tmp_path / "two" / "checkpoints" / "00000001")
    steps = {name: int(value) for name, value in after.optimizer.items() if name.endswith(".step")}
    assert set(steps.values()) == {7}
    name = "network.bert.encoder.layer.0.attention.self.query.weight"
    apart = (after.model[name] - before.model[name]).norm() / before.model[name].norm()
    assert float(apart) == pytest.approx(second.optimizer.keywords["lr"], rel=1e-3)  # LAMB's identity, from there
    assert after.state["step"] == 1
    again = Run.from_json(json.loads(json.dumps(second.to_json())))
    assert again.to_json() == second.to_json()


def test_resuming_is_exact(reviews: Path, tmp_path: Path) -> None:
    run = small(bert(reviews, batch_size=12, steps=6, warmup_steps=2, length=32, evaluations=0), checkpoint_steps=3)
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=3), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000006") for name in ("whole", "half"))
    for group in ("model", "optimizer", "rng"):
        mine, its = getattr(one, group), getattr(two, group)
        assert all(torch.equal(mine[name], its[name]) for name in mine), group


def test_it_loads_with_from_pretrained(reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(reviews, tmp_path / "run")
    assert export_model(tmp_path / "run", "transformers", tmp_path / "out").step == 6
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer("A film. Actors [MASK].", "Plot", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.cls_token_id
    assert inputs["token_type_ids"].tolist()[0][-2:] == [1, 1]
    own = load_model(tmp_path / "run").model
    assert isinstance(own, BERT)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, own.network(**inputs).prediction_logits)
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu", "--precision", "fp32", "--baselines"]) == 0
    said = capsys.readouterr().out
    assert "of the hidden word pieces" in said
    assert "the most frequent word piece, " in said
    with pytest.raises(UserError, match="already exists"):
        export_model(tmp_path / "run", "transformers", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "tinny"}, "no preset 'tinny'. Did you mean tiny"),
        ({"phase": 2}, "Phase 2 goes on with the weights and the optimizer's state of phase 1, and none was named"),
        ({"from_": Path("run")}, "Phase 1 begins anew"),
        ({"length": 1024}, "1024 word pieces is longer than the 512 positions of the model"),
        ({"batch_size": 0}, "A batch of 0 cannot work"),
        ({"lr": -1.0}, "A rate of -1 cannot work"),
        ({"steps": 10}, "A warm-up of 100 steps is longer than the run of 10"),
        ({"epochs": 1.0, "steps": 3}, "one budget; given: epochs=1, steps=3"),
    ],
)
def test_what_is_refused(reviews: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        bert(reviews, **settings)


def test_what_does_not_match_is_refused(reviews: Path, tmp_path: Path) -> None:
    trained(reviews, tmp_path / "one")
    other = write_reviews(tmp_path / "other", train=30, tokenizer=None, vocab_size=60)
    with pytest.raises(UserError, match=r"word pieces of .* are not those that .* was trained with"):
        bert(other, phase=2, from_=tmp_path / "one", steps=200)
    with pytest.raises(UserError, match="trained a BERT with hidden_size=128; this preset has 256"):
        bert(reviews, preset="mini", phase=2, from_=tmp_path / "one", steps=200)
    with pytest.raises(UserError, match="is not a run folder"):
        bert(reviews, phase=2, from_=tmp_path / "absent", steps=200)
    flat = write_reviews(tmp_path / "flat", train=30, sentences="line")
    with pytest.raises(UserError, match="has two sentences, so there is no next sentence to tell"):
        bert(flat, steps=200)
    run = bert(flat, steps=200, next_sentence=False)
    assert run.task.keywords["next_sentence"] == 0.0
