"""The word language model's recipe: what is published, what follows from it, and what it refuses."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.words import write_words

from overnight.data.words.corpus import WordCorpus
from overnight.data.words.lanes import word_lanes
from overnight.data.words.ngrams import NgramWindows
from overnight.errors import UserError
from overnight.optim.rows import RowAdagrad
from overnight.recipes.word_lm import word_lm
from overnight.recipes.word_presets import PRESETS, QUIRKS
from overnight.schedule import Progress, constant
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "corpus")


def small(run: Run, **changes: Any) -> Run:
    for name, value in {"model.embedding_size": 12, "model.hidden_size": 12, "precision": "fp32", "threads": 1}.items():
        run = run.with_setting(f"{name}={value}")
    return replace(run, **changes)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_the_same_run_after_json(words: Path, preset: str) -> None:
    changes: dict[str, Any] = {"output": "sampled:20"} if preset.startswith("lm1b") else {}
    run = word_lm(words, preset=preset, batch_size=4, lr=0.1, **changes)
    run.check()
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()
    if preset not in ("lm1b", "lm1b-small", "ptb-large", "ptb-medium"):
        build(again, ALONE)


def test_zaremba_small_as_published(words: Path) -> None:
    run = word_lm(words)
    assert (run.global_batch_size, run.data.keywords["length"], run.epochs, run.max_norm) == (20, 20, 13, 5.0)
    assert run.optimizer.keywords == {"lr": 1.0}
    assert run.task.keywords["reduction"] == "sum_over_time"
    assert run.model.keywords["init_range"] == 0.1
    parts = build(run, ALONE)
    epoch = parts.data.steps_per_epoch * 20
    rates = [
        run.schedule(Progress(index * epoch + offset, 20, 13 * epoch))
        for index in range(13)
        for offset in (0, epoch - 20)
    ]
    assert rates == [factor for index in range(13) for factor in [0.5 ** max(0, index - 3)] * 2]


@pytest.mark.parametrize(
    ("preset", "epoch", "factor"),
    [("ptb-medium", 5, 1.0), ("ptb-medium", 6, 1 / 1.2), ("ptb-large", 13, 1.0), ("ptb-large", 15, 1.15**-2)],
)
def test_the_larger_models_rates(words: Path, preset: str, epoch: int, factor: float) -> None:
    """Zaremba et al. divide by 1.2 after the 6th epoch, and by 1.15 after the 14th."""
    run = word_lm(words, preset=preset)
    samples = run.schedule.keywords["every_samples"]
    assert run.schedule(Progress(epoch * samples, 20, 99 * samples)) == pytest.approx(factor)
    assert (run.model.keywords["dropout"], run.max_norm) == ((0.5, 5.0) if preset == "ptb-medium" else (0.65, 10.0))


def test_one_billion_words_and_its_quirks(words: Path) -> None:
    run = word_lm(words, preset="lm1b", output="sampled:20")
    assert run.optimizer.func is RowAdagrad
    assert run.optimizer.keywords == {"lr": 0.2, "initial_accumulator_value": 1.0, "eps": 0.0}
    assert run.ema is not None
    assert run.ema.keywords == {"decay": 0.999, "only": ("recurrent.",)}
    assert run.param_groups is not None
    assert run.model.keywords["embedding_gradient_scale"] == 128
    assert run.task.keywords["reduction"] == "sum_over_time"
    assert (run.global_batch_size, run.data.keywords["length"], run.max_norm) == (1024, 20, 1.0)
    assert all(quirk in " ".join(run.notes) for quirk in QUIRKS)
    plain = word_lm(words, preset="lm1b", output="sampled:20", quirks="none")
    assert plain.ema is not None
    assert (plain.ema.keywords, plain.param_groups) == ({"decay": 0.999}, None)
    assert "embedding_gradient_scale" not in plain.model.keywords
    assert plain.task.keywords["reduction"] == "mean"
    some = word_lm(words, preset="lm1b", output="sampled:20", quirks="clip-recurrent-only, loss-times-steps")
    assert (some.param_groups is not None, some.task.keywords["reduction"]) == (True, "sum_over_time")
    with pytest.raises(UserError, match="Did you mean clip-recurrent-only"):
        word_lm(words, preset="lm1b", quirks="clip-recurent-only")
    with pytest.raises(UserError, match="Quirks are those of f-lm's code"):
        word_lm(words, quirks="clip-recurrent-only")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gates": "factorized:4"}, "svd"),
        ({"gates": "factorized:4", "factor_init": "independent"}, None),
        ({"gates": "factorized:4", "preset": "lm1b", "output": "sampled:20"}, None),
        ({"gates": "factorized:4", "preset": "lm1b", "output": "sampled:20", "factor_init": "svd"}, "svd"),
        ({"gates": "grouped:2"}, None),
        ({}, None),
    ],
)
def test_how_factors_start(words: Path, settings: dict[str, Any], expected: str | None) -> None:
    """As the singular vectors of a dense map; independently where f-lm is repeated."""
    assert word_lm(words, **settings).model.keywords.get("factor_init") == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "ptb-smal"}, "no preset 'ptb-smal'. Did you mean ptb-small"),
        ({"optimizer": "adam"}, "The preset's rate is that of sgd. Give one for adam with --lr"),
        ({"optimizer": "sdg", "lr": 1.0}, "no optimizer 'sdg'. Did you mean sgd"),
        ({"preset": "wsj-fnn", "gates": "dense"}, "A model of kind fnn has no gates"),
        ({"preset": "wsj-fnn", "tied": True}, "embedding cannot be its softmax"),
        ({"factor_init": "svd", "gates": "grouped:2"}, "factor-init is for factorized gates, and there are none"),
        ({"factor_init": "svd"}, "factor-init is for factorized gates, and there are none"),
        ({"batch_size": 0}, "A batch of 0 cannot work"),
        ({"lr": -1.0}, "A rate of -1 cannot work"),
        ({"warmup_steps": -1}, "--warmup-steps -1 cannot work"),
        ({"warmup_steps": 50, "steps": 40}, "A warm-up of 50 steps is longer than the run of 40"),
    ],
)
def test_what_is_refused(words: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        word_lm(words, **settings)


def test_the_rate_follows_the_batch(words: Path) -> None:
    run = word_lm(words, batch_size=80)
    assert run.optimizer.keywords["lr"] == 2.0
    assert "by the sqrt rule at batch 80" in " ".join(run.notes)
    assert word_lm(words, batch_size=80, rule="linear").optimizer.keywords["lr"] == 4.0


def test_legw_keeps_the_steps_of_a_warm_up(words: Path) -> None:
    base, large = (word_lm(words, batch_size=batch, rule="legw", warmup_steps=6, steps=60) for batch in (20, 80))
    assert (base.optimizer.keywords["lr"], large.optimizer.keywords["lr"]) == (1.0, 2.0)
    assert (base.schedule.keywords["warmup_samples"], large.schedule.keywords["warmup_samples"]) == (120, 480)
    rise = [large.schedule.func(Progress(80 * step, 80, 4800), **large.schedule.keywords) for step in (0, 5)]
    assert rise == pytest.approx([1 / 6, 1.0])
    assert "warmup_samples" not in word_lm(words, batch_size=80, steps=60).schedule.keywords
    adapted = word_lm(words, batch_size=80, rule="date", warmup_steps=6, steps=60).adapt
    assert adapted is not None
    assert adapted.keywords["fixed"] == ("warmup_samples",)
    assert adapted.keywords["baseline"].keywords["warmup_samples"] == 480


@pytest.mark.parametrize("output", ["full", "sampled:20"])
def test_a_run_learns_and_is_told_in_perplexity(words: Path, tmp_path: Path, output: str) -> None:
    run = word_lm(words, output=output, batch_size=8, length=10, steps=150, optimizer="adam", lr=0.03)
    run = small(run, evaluations=3, log_every=10)
    summary = train(run, tmp_path / "run", QUIET)
    scored, logged = lines(tmp_path / "run" / "eval.jsonl"), lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in scored] == [50, 100, 150]
    assert scored[-1]["perplexity"] < 0.9 * scored[0]["perplexity"]
    assert all("bits_per_byte" not in line and line["perplexity"] > 1 for line in logged)
    assert summary["best"] == {"step": 150, "perplexity": scored[-1]["perplexity"]}
    assert summary["baselines"][0]["name"] == "unigram"
    derived = json.loads((tmp_path / "run" / "run.json").read_text())["derived"]
    assert (derived["metric"], derived["counted"]) == ("perplexity", "words")
    assert len(derived["vocabulary_digest"]) == 64


@pytest.mark.parametrize("preset", ["ptb-small", "wsj-rnn", "wsj-fnn", "lm1b-small"])
def test_resuming_is_exact(words: Path, tmp_path: Path, preset: str) -> None:
    """The sampler's generator, the average of the weights, dropout and the carry all go on."""
    run = word_lm(words, preset=preset, output="sampled:20", batch_size=4, length=6, steps=8, lr=0.1, ema=0.9)
    run = small(run, evaluations=0, checkpoint_steps=4, keep_last=9)
    run = run.with_setting("model.dropout=0.2")
    if preset == "lm1b-small":
        run = run.with_setting("model.projection=8")
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=4), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000008") for name in ("whole", "half"))
    for group in ("model", "optimizer", "carry", "rng", "ema"):
        mine, its = getattr(one, group), getattr(two, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine), group
    assert one.ema
    assert (set(one.ema) == {name for name in one.model if name.startswith("recurrent.")}) == (preset == "lm1b-small")


def test_gradients_of_rows_train_as_dense_ones_do(words: Path, tmp_path: Path) -> None:
    """Also where they are clipped, which in these steps they always are."""
    ends = []
    for sparse in (True, False):
        run = word_lm(words, output="sampled:20", batch_size=4, length=6, steps=6, lr=0.5, max_norm=0.1)
        run = small(run, evaluations=0, log_every=1).with_setting(f"model.sparse={sparse}")
        train(run, tmp_path / str(sparse), QUIET)
        ends.append(load_checkpoint(tmp_path / str(sparse) / "checkpoints" / "00000006").model)
    assert all(line["clipped"] == 1.0 for line in lines(tmp_path / "True" / "metrics.jsonl"))
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], msg=name)


@pytest.mark.parametrize("setting", ["optimizer.weight_decay=0.01", "optimizer.momentum=0.9"])
def test_sgd_of_rows_has_decay_and_momentum(words: Path, tmp_path: Path, setting: str) -> None:
    """torch's SGD has neither for gradients that hold some rows only."""
    run = word_lm(words, output="sampled:20", batch_size=4, length=6, steps=4, lr=0.5)
    run = small(run, evaluations=1, checkpoint_steps=2).with_setting(setting)
    assert run.model.keywords["sparse"]
    train(run, tmp_path / "run", QUIET)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "00000004").optimizer
    train(replace(run, steps=5), tmp_path / "run", replace(QUIET, resume=True))


def test_rows_that_were_never_touched_are_decayed_in_a_checkpoint(words: Path, tmp_path: Path) -> None:
    run = word_lm(words, output="sampled:4", batch_size=1, length=2, steps=4, lr=0.5, optimizer="adagrad")
    run = small(run, evaluations=0).with_setting("optimizer.weight_decay=0.01")
    run = replace(run, schedule=partial(constant))
    parts = build(run, ALONE)
    start = parts.task.model.state_dict()["embedding.weight"]
    seen = torch.cat([parts.data.at(step, 0, 1).input_TB.flatten() for step in range(4)])
    untouched = torch.ones(len(start), dtype=torch.bool).index_fill(0, seen, False)
    assert 0 < untouched.sum() < len(start)
    train(run, tmp_path / "run", QUIET)
    end = load_checkpoint(tmp_path / "run" / "checkpoints" / "00000004").model["embedding.weight"]
    torch.testing.assert_close(end[untouched], start[untouched] * (1 - 0.5 * 0.01) ** 4)


def test_only_the_recurrence_is_clipped_where_the_quirk_says_so(words: Path, tmp_path: Path) -> None:
    """One step of SGD from the same weights: what is not clipped moves as far as without clipping."""
    moved = {}
    for name, quirks, norm in (("free", "none", 0.0), ("some", "clip-recurrent-only", 1e-3), ("all", "none", 1e-3)):
        run = word_lm(
            words, preset="lm1b-small", output="full", batch_size=4, length=6, steps=1, lr=100.0, optimizer="sgd",
            quirks=quirks, max_norm=norm, ema=0, dropout=0.0,
        )  # fmt: skip
        run = small(run, evaluations=0).with_setting("model.projection=8")
        start = build(run, ALONE).task.model.state_dict()
        train(run, tmp_path / name, QUIET)
        end = load_checkpoint(tmp_path / name / "checkpoints" / "00000001").model
        moved[name] = {key: end[key] - start[key] for key in end}
    inside = [key for key in moved["free"] if key.startswith("recurrent.")]
    alone, among = (_length(moved[name], inside) for name in ("some", "all"))
    assert alone == pytest.approx(0.1, rel=1e-2)  # rate times norm
    assert among < alone
    for key in moved["free"]:
        expected = moved["all"][key] / among * alone if key in inside else moved["free"][key]
        torch.testing.assert_close(moved["some"][key], expected, rtol=1e-4, atol=1e-5, msg=key)


def _length(moved: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return sum(moved[name].square().sum() for name in names) ** 0.5  # type: ignore[return-value]


def test_tied_weights_are_saved_and_loaded(words: Path, tmp_path: Path) -> None:
    run = small(word_lm(words, tied=True, batch_size=4, length=6, steps=3), evaluations=1)
    train(run, tmp_path / "run", QUIET)
    model: Any = load_model(tmp_path / "run", "last").model
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("preset", ["ptb-small", "wsj-rnn", "wsj-fnn"])
def test_the_seed_is_the_sampler_s_too(words: Path, preset: str) -> None:
    ids, found = torch.zeros(3, 2, dtype=torch.long), []
    for seed in (0, 0, 1):
        run = small(word_lm(words, preset=preset, output="sampled:20", batch_size=4, lr=0.1, dropout=0.0, seed=seed))
        torch.manual_seed(0)
        found.append(run.model().train().loss(ids, ids)[0].item())
    assert found[0] == found[1] != found[2]


def test_a_seed_that_is_set_is_the_sampler_s_too(words: Path) -> None:
    run = word_lm(words, output="sampled:20", lr=0.1, seed=4).with_setting("seed=7")
    assert (run.seed, run.model.keywords["seed"]) == (7, 7)
    own = run.with_setting("model.seed=3").with_setting("seed=8")
    assert (own.seed, own.model.keywords["seed"]) == (8, 3)


def test_a_feed_forward_model_s_contexts_are_filled_as_the_corpus_says(words: Path) -> None:
    """Lanes with resets at sentences show it the contexts of ``ngram_windows``."""
    corpus = WordCorpus(words)
    run = small(word_lm(words, preset="wsj-fnn", lr=0.1))
    assert run.data.keywords["reset"] == "sentence"
    assert run.model.keywords["pad"] == corpus.fill == corpus.eos
    model: Any = run.model()
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    batch = word_lanes(corpus=str(words), lanes=1, seed=None, length=200, reset="sentence").at(0)
    model.hidden(batch.input_TB, None, batch.reset_TB)
    windows = NgramWindows(corpus.split("train"), 1, 5, fill=corpus.fill, eos=corpus.eos)
    assert torch.equal(seen[0][:, 0].flip(-1), windows.of(np.arange(1, 201)).context_BC)


def test_row_adam_trains_rows_and_goes_on(words: Path, tmp_path: Path) -> None:
    run = word_lm(words, output="sampled:20", batch_size=4, length=6, steps=4, optimizer="row-adam", lr=0.01)
    run = small(run, evaluations=0, checkpoint_steps=2)
    assert run.model.keywords["sparse"]
    train(run, tmp_path / "run", QUIET)
    train(replace(run, steps=5), tmp_path / "run", replace(QUIET, resume=True))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "00000005").optimizer


def test_unigram_samples_by_the_corpus_counts(words: Path, tmp_path: Path) -> None:
    run = small(word_lm(words, output="sampled:20", sampler="unigram", batch_size=4, length=6, steps=3), evaluations=1)
    train(run, tmp_path / "run", QUIET)
    moved = json.loads((tmp_path / "run" / "run.json").read_text())
    moved["run"]["model"]["kwargs"]["counts"] = str(tmp_path / "gone")
    (tmp_path / "run" / "run.json").write_text(json.dumps(moved))
    model: Any = load_model(tmp_path / "run").model
    ids = torch.zeros(3, 2, dtype=torch.long)
    assert torch.isfinite(model.loss(ids, ids)[0])
    with pytest.raises(UserError, match=r"unigram sampler's counts are those of .*gone, which is not there"):
        model.train().loss(ids, ids)
