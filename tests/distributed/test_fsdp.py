"""Training of which every rank has a part only (FSDP2) is that of one process, and so are its checkpoints."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.fsdp_work import MISTAKES, STEPS, reductions, refusals, run_of, trained
from oracles.pictures import write_cifar
from oracles.reviews import write_reviews
from safetensors.torch import load_file
from train.launching import lines, same_end
from train.on_ranks import on_ranks

from overnight.cli import main
from overnight.errors import UserError
from overnight.train.checkpoint import Checkpoint, load_checkpoint, load_model
from overnight.train.launch import Options, train

# float32 sums in another order, over six updates
TOLERANCE = 2e-5
QUIET = Options(quiet=True, device="cpu")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Made:
    """Data and runs by kind of model, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def data(self, kind: str) -> Path:
        folder = self.folder / f"{kind} data"
        if not folder.exists():
            write_reviews(folder, train=60) if kind == "bert" else write_cifar(folder)
        return folder

    def alone(self, kind: str) -> Path:
        """One process, without a break."""
        out = self.folder / kind / "alone"
        if not out.exists():
            train(run_of(kind, self.data(kind), None), out, QUIET)
        return out

    def two(self, kind: str) -> Path:
        """Two ranks, without a break."""
        out = self.folder / kind / "two"
        if not out.exists():
            given(out.parent, 2, kind, self.data(kind), out, "fsdp")
        return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("fsdp"))


@pytest.fixture(params=["resnet", "bert"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "bert":
        pytest.importorskip("transformers", reason="needs the extra bert")
    return name


def given(folder: Path, ranks: int, *arguments: Any) -> None:
    """``trained`` on ranks."""
    for result in on_ranks(trained, folder / "logs", ranks, *arguments):
        if isinstance(result, BaseException):
            raise result


def at(run: Path, step: int) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / f"{step:08d}")


def furthest(run: Path, other: Path, step: int) -> float:
    """Over tensors of weights, moments and averages, ‖difference‖ / ‖theirs‖.

    Or 0.01 where theirs is less: biases of keys have no gradient but rounding, of which Adam makes steps.
    """
    ours, theirs = at(run, step), at(other, step)
    worst = 0.0
    for group in ("model", "optimizer", "ema"):
        mine, its = getattr(ours, group), getattr(theirs, group)
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            if "running" in name or "num_batches" in name:
                continue  # of rank 0's images
            scale = max(its[name].double().norm().item(), 1e-2)
            worst = max(worst, (tensor.double() - its[name].double()).norm().item() / scale)
    return worst


def test_two_ranks_are_one_process(made: Made, kind: str) -> None:
    two, alone = made.two(kind), made.alone(kind)
    ours, theirs = (lines(run / "metrics.jsonl") for run in (two, alone))
    assert len(ours) == len(theirs) == STEPS
    for mine, its in zip(ours, theirs, strict=True):
        assert all(math.isclose(mine[name], its[name], rel_tol=1e-4) for name in ("loss", "grad_norm", "lr"))
    assert furthest(two, alone, STEPS) <= TOLERANCE
    if kind == "bert":
        assert all(line["clipped"] == 1.0 for line in ours)
        mine, its = (lines(run / "eval.jsonl")[-1] for run in (two, alone))
        assert math.isclose(mine["loss"], its["loss"], rel_tol=1e-4)


def test_checkpoints_go_from_two_ranks_to_four_to_one(made: Made, kind: str, tmp_path: Path) -> None:
    """Each goes on from an earlier checkpoint of the one before."""
    out, alone = tmp_path / "run", made.alone(kind)
    shutil.copytree(made.two(kind), out)
    assert len(list((out / "checkpoints" / "00000002" / "sharded").iterdir())) == 2
    given(tmp_path, 4, kind, made.data(kind), out, "fsdp", "2")
    assert furthest(out, alone, STEPS) <= TOLERANCE
    assert len(list((out / "checkpoints" / "00000004" / "sharded").iterdir())) == 4
    train(run_of(kind, made.data(kind), None), out, replace(QUIET, resume=True, checkpoint="4"))
    assert furthest(out, alone, STEPS) <= TOLERANCE
    assert not (out / "checkpoints" / f"{STEPS:08d}" / "sharded").exists()


def test_a_checkpoint_of_one_process_goes_on_in_parts(made: Made, tmp_path: Path) -> None:
    out, alone = tmp_path / "run", made.alone("resnet")
    shutil.copytree(alone, out)
    given(tmp_path, 2, "resnet", made.data("resnet"), out, "fsdp", "2")
    assert furthest(out, alone, STEPS) <= TOLERANCE


def test_resumed_on_as_many_ranks_to_the_bit(made: Made, tmp_path: Path) -> None:
    out, two = tmp_path / "run", made.two("resnet")
    shutil.copytree(two, out)
    given(tmp_path, 2, "resnet", made.data("resnet"), out, "fsdp", "4")
    same_end(out, two)


def test_the_model_is_whole_for_who_loads_it(made: Made) -> None:
    loaded, whole = load_model(made.two("resnet"), "last").model.state_dict(), at(made.two("resnet"), STEPS)
    for name, tensor in {**whole.model, **whole.ema}.items():
        assert torch.equal(loaded[name], tensor)


def test_bert_becomes_one_file_of_transformers(made: Made, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra bert")
    out = tmp_path / "out"
    assert (
        main(["export", str(made.two("bert")), "--to", "transformers", "--checkpoint", "last", "--out", str(out)]) == 0
    )
    (file,) = out.glob("*.safetensors")
    trained = {name.removeprefix("network."): value for name, value in at(made.two("bert"), STEPS).model.items()}
    for name, tensor in load_file(file).items():
        assert torch.equal(trained[name], tensor), name
    again = transformers.BertForPreTraining.from_pretrained(out).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in trained.items() if name in again)


def test_a_damaged_part_is_named(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(made.two("resnet"), out)
    part = sorted((out / "checkpoints" / "00000004" / "sharded").iterdir())[1]
    kept = part.read_bytes()
    part.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"sharded/{part.name} does not match its digest.*--checkpoint 2"):
        at(out, 4)
    part.unlink()
    with pytest.raises(UserError, match=rf"sharded/{part.name} is missing"):
        at(out, 4)
    said = json.loads((out / "run.json").read_text())["run"]["parallel"]
    assert said == {"call": "overnight.comm.fully_sharded.fsdp", "kwargs": {"layers": ["model.layer*.*"]}}


def test_one_reduction_an_update_and_parts_only(tmp_path: Path) -> None:
    """Of two micro-batches only the last is averaged over the ranks; a rank has half of weights and moments."""
    data = write_cifar(tmp_path / "cifar")
    for found in on_ranks(reductions, tmp_path / "logs", 2, data):
        assert found["batches"] == 2
        calls = found["calls"]
        groups = 4  # three blocks, and the rest
        assert sum(n for name, n in calls.items() if "reduce_scatter" in name) == groups
        assert 0.4 * found["all"] < found["here"] == found["moments"] < 0.6 * found["all"]


def test_ddp_in_bf16_sends_half(made: Made, tmp_path: Path) -> None:
    """From the command line's words, with two micro-batches an update; every loss is near that of one process."""
    out, alone = tmp_path / "run", made.alone("resnet")
    given(tmp_path, 2, "resnet", made.data("resnet"), out, "ddp bf16")
    ours, theirs = lines(out / "metrics.jsonl"), lines(alone / "metrics.jsonl")
    parameters = json.loads((out / "run.json").read_text())["derived"]["parameters"]
    assert {line["sent_bytes"] for line in ours} == {2.0 * parameters}
    for mine, its in zip(ours, theirs, strict=True):
        assert math.isclose(mine["loss"], its["loss"], rel_tol=0.02)


def test_what_is_refused(tmp_path: Path) -> None:
    for said in on_ranks(refusals, tmp_path, 2):
        assert said.keys() == MISTAKES.keys()
        assert "0.weight are sparse, and FSDP has no rows to average" in said["sparse"]
        assert "Leave out param_dtype" in said["batch norm"]
        assert "dtype='fp8' is not known" in said["dtype"]
        assert "'1' names no module with parameters" in said["layers"]
        assert "before its first step" in said["stepped"]
        assert "The optimizer has parameters that the module has not" in said["another model's"]
        assert "no parameters to share out" in said["nothing"]
        assert "The model of rank 1 is not that of rank 0" in said["ranks differ"]
        for name in ("twice", "then ddp", "then sampled", "then local"):
            assert "weight is shared out over the ranks already (FSDP)" in said[name]


@pytest.mark.parametrize("name", ["fsdp,sampled", "local+fsdp"])
def test_two_ways_at_once(name: str, tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "cifar")
    with pytest.raises(UserError, match=r"names 2 ways.*fsdp keeps no whole ones.*Choose one of them"):
        run_of("resnet", data, name)
    with pytest.raises(UserError, match=r"This recipe has no plan for --parallel sampled. Choose one of ddp, fsdp"):
        run_of("resnet", data, "sampled")
