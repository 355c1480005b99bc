"""``Run.parallel``: what ranks exchange, what a checkpoint holds of it, and what is found out before the first step."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train.launching import lines, same_end
from train.on_ranks import on_ranks
from train.parallel_work import LOCAL, SAMPLED, train_together
from train.toys import toy

from overnight.errors import ElsewhereError, UserError
from overnight.train.checkpoint import load_checkpoint
from overnight.train.launch import Options, train

DDP: dict[str, Any] = {"parallel": "overnight.comm.strategies.ddp"}


def together(tmp_path: Path, name: str, ranks: int = 2, resume: str = "", **settings: Any) -> list[Any]:
    return on_ranks(train_together, tmp_path / f"{name}-out", ranks, tmp_path / name, settings, None, resume)


def last(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("0*"))[-1]


def same_weights(ended: list[Any], folder: Path) -> None:
    """All ranks have the very weights of the last checkpoint."""
    saved = load_checkpoint(last(folder)).model
    for each in ended:
        assert each["weights"].keys() == saved.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in each["weights"].items())


@pytest.mark.parametrize("ranks", [2, 3])
def test_metered_ddp_and_every_row_are_plain_ddp(tmp_path: Path, ranks: int) -> None:
    batch: dict[str, Any] = {"global_batch_size": 6, "checkpoint_steps": 3}
    together(tmp_path, "none", ranks, **batch)
    together(tmp_path, "ddp", ranks, **batch, **DDP)
    found, expected = (load_checkpoint(last(tmp_path / name)) for name in ("ddp", "none"))
    assert all(torch.equal(tensor, expected.model[name]) for name, tensor in found.model.items())
    assert [line["loss"] for line in lines(tmp_path / "ddp" / "metrics.jsonl")] == [
        line["loss"] for line in lines(tmp_path / "none" / "metrics.jsonl")
    ]
    together(tmp_path, "whole", ranks, **batch, **SAMPLED, parallel__rate=1.0)
    found = load_checkpoint(last(tmp_path / "whole"))
    assert all(torch.equal(tensor, expected.model[name]) for name, tensor in found.model.items())


TRAFFIC = {"sent_bytes", "computing_seconds", "waiting_seconds"}


def test_bytes_and_seconds_of_a_step(tmp_path: Path) -> None:
    together(tmp_path, "ddp", **DDP)
    together(tmp_path, "sampled", **SAMPLED)
    together(tmp_path, "local", **LOCAL, steps=12)
    read = {name: lines(tmp_path / name / "metrics.jsonl") for name in ("ddp", "sampled", "local")}
    assert {line["sent_bytes"] for line in read["ddp"]} == {28 * 8.0}
    assert {line["sent_bytes"] for line in read["sampled"]} == {14 * 8.0}
    assert [line["step"] for line in read["local"]] == [3, 6, 9, 12]
    assert {line["sent_bytes"] for line in read["local"]} == {28 * 8 / 3}
    for line in [*read["ddp"], *read["sampled"], *read["local"]]:
        assert line["computing_seconds"] >= 0
        assert line["waiting_seconds"] > 0
    train(toy(**DDP), tmp_path / "alone", Options(quiet=True))
    assert not TRAFFIC & lines(tmp_path / "alone" / "metrics.jsonl")[0].keys()


@pytest.mark.parametrize(
    "way", [SAMPLED, SAMPLED | {"parallel__residual": "per_rank"}, LOCAL], ids=["flush", "per_rank", "local"]
)
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, way: dict[str, Any]) -> None:
    settings = way | {"checkpoint_steps": 6, "steps": 11, "keep_last": 9, "optimizer": "torch.optim.Adam"}
    ended = together(tmp_path, "whole", **settings)
    same_weights(ended, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    together(tmp_path, "cut", resume="6", **settings)
    same_end(tmp_path / "cut", tmp_path / "whole")


def test_a_flushed_checkpoint_goes_on_with_any_number_of_ranks(tmp_path: Path) -> None:
    for name, way in (("sampled", SAMPLED), ("local", LOCAL)):
        settings = way | {"checkpoint_steps": 4, "keep_last": 9}
        together(tmp_path, name, steps=4, **settings)
        for ranks in (4, 1):
            ended = together(tmp_path, name, ranks, resume="last", steps=4 + 4 // ranks, **settings)
            assert {each["state"] for each in ended} == {"finished"}
            same_weights(ended, tmp_path / name)
    plain = json.loads((last(tmp_path / "sampled") / "state.json").read_text())["parallel"]
    assert (plain["strategy"], plain["mode"], plain["step"]) == ("sampled", "flush", 8)


def test_what_each_rank_kept_is_for_as_many_ranks(tmp_path: Path) -> None:
    settings = SAMPLED | {"parallel__residual": "per_rank", "steps": 4}
    together(tmp_path, "run", **settings)
    kept = load_checkpoint(last(tmp_path / "run")).parallel
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "residual/model.mix.weight": (2, 4, 6),
        "residual/model.mix.bias": (2, 4),
    }
    assert not torch.equal(*kept["residual/model.mix.weight"])
    found = together(tmp_path, "run", 4, resume="last", **settings | {"steps": 8})
    assert all("is of rank 0 of 2, this is rank 0 of 4" in str(each) for each in found), found


def test_another_way_or_none_goes_on_from_the_weights(tmp_path: Path) -> None:
    together(tmp_path, "run", **SAMPLED, steps=4)
    together(tmp_path, "run", resume="last", **LOCAL, steps=7)
    ended = together(tmp_path, "run", resume="last", steps=10)
    same_weights(ended, tmp_path / "run")
    assert not load_checkpoint(last(tmp_path / "run")).parallel


def test_another_plan_does_not_go_on(tmp_path: Path) -> None:
    train(toy(**SAMPLED, steps=2), tmp_path / "run", Options(quiet=True))
    with pytest.raises(UserError, match="of another plan"):
        train(toy(**SAMPLED, steps=4, parallel__rate=0.25), tmp_path / "run", Options(quiet=True, resume=True))


def test_accumulation_has_one_set_of_rows_a_step(tmp_path: Path) -> None:
    found = []
    for micro in (1, 4):
        together(tmp_path, str(micro), micro_batch_size=micro, **SAMPLED)
        found.append(load_checkpoint(last(tmp_path / str(micro))))
        assert found[-1].state["parallel"]["step"] == 8
    for name, tensor in found[0].model.items():
        assert torch.allclose(tensor, found[1].model[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "way",
    [SAMPLED, SAMPLED | {"parallel__dtype": "bf16"}, DDP | {"parallel__dtype": "bf16"}],
    ids=["sampled", "bf16", "ddp-bf16"],
)
def test_a_rank_that_is_not_finite_or_has_no_targets(tmp_path: Path, way: dict[str, Any]) -> None:
    ended = together(tmp_path, "run", data__bad=((3, "loss"), (5, "empty")), **way)
    assert [line["skipped"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == [0, 0, 0, 1, 1, 1, 1, 1]
    same_weights(ended, tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in ended[0]["weights"].values())


def test_local_steps_that_one_rank_skips(tmp_path: Path) -> None:
    """Between meetings a rank decides alone; then the steps that any of them skipped are skipped steps."""
    settings = LOCAL | {"steps": 9, "data__bad": ((4, "loss"), (7, "empty"))}
    ended = together(tmp_path, "run", **settings)
    read = lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["step"], line["skipped"]) for line in read] == [(3, 0), (6, 1), (9, 1)]
    assert [line["tokens"] for line in read] == [60, 120, 170]
    assert load_checkpoint(last(tmp_path / "run")).state["applied"] == 64
    same_weights(ended, tmp_path / "run")
    failed = together(
        tmp_path, "bad", **settings | {"data__bad": tuple((i, "loss") for i in range(9)), "max_skipped": 4}
    )
    assert [type(each) for each in failed] == [UserError, ElsewhereError]
    assert "6 steps in a row" in str(failed[0])


def test_local_steps_do_not_wait_between_meetings(tmp_path: Path) -> None:
    few, many = (
        together(tmp_path, f"{steps}", **LOCAL | {"steps": steps, "parallel__every": steps // 2})[0]["reductions"]
        for steps in (4, 12)
    )
    assert few == many


def test_half_precision_scales_alike(tmp_path: Path) -> None:
    """An overflow on one rank, in rows that are not exchanged too, is a skipped step on both."""
    half: dict[str, Any] = {"precision": "fp16", "model": "train.toys.HalfModel", "data__bad": ((2, "huge"),)}
    ended = together(tmp_path, "run", **SAMPLED, **half)
    same_weights(ended, tmp_path / "run")
    read = lines(tmp_path / "run" / "metrics.jsonl")
    assert read[2]["skipped"] == read[1]["skipped"] + 1
    assert [line["loss_scale"] for line in read] == [2.0 ** (16 - line["skipped"]) for line in read]
    kept = load_checkpoint(last(tmp_path / "run")).parallel
    assert kept
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SAMPLED | {"parallel__rate": 0.0}, r"rate=0\.0 is not a share .* above 0 and at most 1"),
        (SAMPLED | {"parallel__rate": 1.5}, r"rate=1\.5 is not a share"),
        (SAMPLED | {"parallel__rows": ("model.mix.*",), "parallel__random": -0.1}, r"random=-0\.1 is not a share"),
        (SAMPLED | {"parallel__hidden": (("model.max.*", 1),)}, r"'model\.max\.\*' matches no parameter"),
        (SAMPLED | {"parallel__hidden": (("model.mix.*", 3),)}, r"are not 3 blocks of equal size"),
        (SAMPLED | {"parallel__hidden": ()}, r"names no parameter .* or train with --parallel ddp"),
        (SAMPLED | {"parallel__hidden": ("model.mix.*",)}, r"is not understood. Write it as \[\[PATTERN, BLOCKS\]"),
        (SAMPLED | {"parallel__rows": "model.mix.*"}, r"is not a list of patterns"),
        (SAMPLED | {"parallel__residual": "keep"}, r"Choose flush, per_rank or drop"),
        (DDP | {"parallel__timeout_seconds": -1}, r"timeout_seconds=-1 is no time to wait"),
        (SAMPLED | {"parallel__timeout_seconds": 1e9}, r"timeout_seconds=1000000000.0 is no time to wait"),
        (LOCAL | {"parallel__timeout_seconds": 0}, r"timeout_seconds=0 is no time to wait"),
        (DDP | {"parallel__dtype": "fp8"}, r"dtype='fp8' is not known"),
        (LOCAL | {"parallel__every": 0}, r"every=0 is no number of local steps"),
        ({"parallel": 3}, r"parallel=3 is not a component"),
        ({"parallel": "overnight.comm.Meter"}, r"(unexpected keyword|takes no arguments)"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        train(toy(**settings), tmp_path / "run", Options(quiet=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", [{"parallel__rate": 0.25}, {"model": "train.toys.HalfModel"}], ids=["plan", "model"])
def test_ranks_that_differ_are_found_at_the_start(tmp_path: Path, other: dict[str, Any]) -> None:
    found = on_ranks(train_together, tmp_path / "out", 2, tmp_path / "run", SAMPLED, {1: other})
    assert [type(each) for each in found] == [ElsewhereError, UserError]
    assert str(found[1]).startswith("Rank 1 would train another model than rank 0, or exchange it in another way.")
    assert not (tmp_path / "run").exists()


def test_what_the_trainer_gives_is_no_setting() -> None:
    for name in ("module", "data", "seed", "loss_scale", "optimizer"):
        with pytest.raises(UserError, match=f"parallel.{name} is not a setting: it follows from"):
            toy(**SAMPLED, **{f"parallel__{name}": 1})
