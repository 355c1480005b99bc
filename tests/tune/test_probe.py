"""A short training with the measurements on: what it says, what it leaves alone, and what it refuses."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train.launching import tiny
from train.on_ranks import on_ranks
from train.toys import toy
from tune.probes import ENDLESS, probed

from overnight.cli import main
from overnight.errors import UserError
from overnight.scaling.noise_scale import NoiseScale
from overnight.train.build import build
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.step import Stepper
from overnight.tune.branching import Brancher
from overnight.tune.measurements import Measurements, micro_batches
from overnight.tune.probing import Probing, probe
from overnight.tune.record import Probe, read_probe

ALONE = World(0, 1, torch.device("cpu"))
SHORT = Probing(steps=64, device="cpu", throughput_seconds=0)


def trained(run: Any, steps: int, observed: bool) -> tuple[dict[str, torch.Tensor], Measurements]:
    """The weights after some steps, looked at or not."""
    parts = build(run, ALONE)
    torch.manual_seed(0)
    stepper = Stepper(parts.task, parts.optimizer, ALONE, parts.precision, run.max_norm)
    measurements = Measurements(
        parts.task.model.named_parameters(), parts.optimizer, global_batch_size=8, max_norm=run.max_norm, every=1
    )
    stepper.observer = measurements if observed else None
    carry = parts.task.initial_carry(run.global_batch_size)
    for step in range(steps):
        batches = [parts.data.at(step, first, count) for first, count in parts.plan.lanes(0)]
        carry = stepper(batches, carry).carry
    return {name: tensor.clone() for name, tensor in parts.task.model.state_dict().items()}, measurements


def test_looking_on_changes_no_bit_and_sees_what_was_done() -> None:
    run = toy(micro_batch_size=2, max_norm=0.5, data__bad=[(3, "loss")])
    (seen, measurements), (unseen, _) = trained(run, 20, True), trained(run, 20, False)
    assert all(torch.equal(seen[name], unseen[name]) for name in unseen)
    raw, adam, moves, clip = measurements.read()
    assert raw.steps == 19, "of 20, one was not finite"
    assert adam is None
    assert clip is not None
    assert 0 < clip[0] <= 1
    assert 0 < clip[1] < 1
    assert moves.steps == 19, "the skipped step moved nothing"
    assert set(raw.layers) == set(moves.layers) == {"mix.weight", "mix.bias"}


def test_the_noise_that_the_stepper_shows_is_that_of_a_loop_by_hand() -> None:
    run = toy(micro_batch_size=2)
    _, measurements = trained(run, 16, True)
    parts = build(run, ALONE)
    noise = NoiseScale(parts.task.model.named_parameters())
    carry = parts.task.initial_carry(8)
    for step in range(16):
        batches = [parts.data.at(step, first, count) for first, count in parts.plan.lanes(0)]
        count = sum(parts.task.count(batch) for batch in batches)
        losses = [parts.task(batch, {"h": carry["h"][2 * i : 2 * i + 2]}) for i, batch in enumerate(batches)]
        for loss in losses:
            (loss.total / count).backward()
        noise.observe(8)
        carry = {"h": torch.cat([loss.carry["h"] for loss in losses])}
        for group in parts.optimizer.param_groups:
            group["lr"] = 0.05
        parts.optimizer.step()
        parts.optimizer.zero_grad()
    by_hand, seen = noise.read(), measurements.read()[0]
    assert seen.steps == by_hand.steps == 16
    assert seen.trace == pytest.approx(by_hand.trace, rel=1e-9)
    assert seen.gradient_square == pytest.approx(by_hand.gradient_square, rel=1e-9)


def test_a_probe_says_it_all_and_survives_its_file(corpus: Path, tmp_path: Path) -> None:
    how = Probing(steps=64, device="cpu", throughput_seconds=0.2, largest_batch=8)
    found = probe(tiny(corpus, steps=200), how)
    assert (found.recipe, found.global_batch_size, found.micro_batch_size, found.step) == ("byte-lm", 4, 1, 64)
    assert found.measured_steps == 32
    assert found.targets_per_sample == 8
    assert found.preconditioned is not None
    assert found.noise.low <= found.noise.noise_scale <= found.noise.high
    assert set(found.layers) == set(found.noise.layers)
    assert all(math.isfinite(step) for step in found.layers.values())
    assert found.loss[1] < found.loss[0]
    assert found.throughput is not None
    assert [p.batch for p in found.throughput.points] == [1, 2, 4, 8]
    assert all(name in found.layers and not name.endswith("bias") for name in found.matrices)
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(found.to_json()))
    assert read_probe(path) == found


def test_what_has_no_end_is_null_in_the_file() -> None:
    written = json.loads(json.dumps(probed(preconditioned=ENDLESS, throughput=None).to_json()))
    assert written["preconditioned"] == {"noise_scale": None, "low": 30.0, "high": None, "usable": False}
    assert Probe.from_json(written).scale() == (ENDLESS, "preconditioned noise scale")


def test_a_probe_goes_on_from_a_checkpoint_and_leaves_the_run_as_it_was(corpus: Path, tmp_path: Path) -> None:
    run, folder = tiny(corpus), tmp_path / "run"
    train(run, folder, Options(quiet=True))
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
    found = probe(run, replace(SHORT, folder=folder))
    assert found.step == 12 + 64
    assert found.relative_step == 0, "the run is over, and its rate 0"
    assert found.noise.noise_scale > 0
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_model_that_has_diverged_is_not_measured(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"diverged: its loss went from .* Probe an earlier checkpoint"):
        probe(tiny(corpus, optimizer__lr=300.0, max_norm=None), SHORT)
    bad = [(step, "loss") for step in range(20, 64)]
    with pytest.raises(UserError, match=r"diverged: the last 20 steps had a loss or a gradient that is not finite"):
        probe(toy(data__bad=bad, steps=64), SHORT)


def test_one_micro_batch_on_one_rank_says_what_to_change() -> None:
    with pytest.raises(
        UserError, match=r"one micro-batch of 8 on one rank\. Leave out --micro-batch-size, or set it to 2"
    ):
        probe(toy(micro_batch_size=8), SHORT)
    with pytest.raises(UserError, match="batch of one sample"):
        micro_batches(1, None, 1)
    assert micro_batches(1, None, 2) == 1, "two ranks are two micro-batches"


def test_two_ranks_measure_together(tmp_path: Path) -> None:
    found = on_ranks(probe, tmp_path, 2, toy(steps=64), SHORT)
    one = probe(toy(steps=64, micro_batch_size=4), SHORT)
    assert [rank.world_size for rank in found] == [2, 2]
    assert found[0].noise == found[1].noise
    assert found[0].noise.noise_scale == pytest.approx(one.noise.noise_scale, rel=1e-3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Probing(steps=4), "4 steps are too few"),
        (Probing(steps=64, minutes=1.0), "A probe has one length"),
        (Probing(minutes=-1.0), "--minutes -1.0 cannot work"),
        (Probing(largest_batch=0), "--largest-batch 0 cannot work"),
        (Probing(throughput_seconds=math.inf), "--throughput-seconds inf cannot work"),
        (Probing(branch_steps=8), "--branch-steps 8 is for branches"),
        (Probing(checkpoint="best"), "--checkpoint best is a run's"),
    ],
)
def test_lengths_that_cannot_work(how: Probing, said: str) -> None:
    with pytest.raises(UserError, match=said):
        probe(toy(), how)


def test_a_branch_at_k_times_the_batch_takes_k_batches_of_the_same_lanes() -> None:
    run = toy()
    parts = build(run, ALONE)
    brancher = Brancher(run, parts, 0, parts.task.initial_carry(8), ALONE.device)
    before = {name: tensor.clone() for name, tensor in parts.task.model.state_dict().items()}
    weight = parts.task.model.mix.weight
    carry, totals, count = parts.task.initial_carry(8), [], 0
    for step in (4, 5):
        loss = parts.task(parts.data.at(step, 0, 8), carry)
        carry, count = loss.carry, count + loss.count
        totals.append(loss.total)
    (expected,) = torch.autograd.grad(sum(totals) / count, weight)
    brancher.update(16, 32.0)
    assert torch.allclose(before["mix.weight"] - weight, 0.05 * expected, rtol=1e-9, atol=1e-12)


def test_no_branch_trains_on_what_it_is_compared_by(monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy()
    parts = build(run, ALONE)
    epoch = parts.data.steps_per_epoch
    read: dict[bool, set[int]] = {True: set(), False: set()}
    at = parts.data.at

    def noted(step: int, *share: int) -> Any:
        read[parts.task.training].add(step)
        return at(step, *share)

    monkeypatch.setattr(parts.data, "at", noted)
    Brancher(run, parts, epoch - 3, parts.task.initial_carry(8), ALONE.device).probe(16, (1, 2))
    assert read[True]
    assert read[False]
    assert not read[True] & read[False]
    assert {step % epoch for step in read[False]} == set(range(epoch - 4, epoch))


def test_branches_find_a_critical_batch_and_put_the_state_back(corpus: Path) -> None:
    run = tiny(corpus, steps=200)
    parts = build(run, ALONE)
    before = {name: tensor.clone() for name, tensor in parts.task.model.state_dict().items()}
    found = Brancher(run, parts, 0, parts.task.initial_carry(4), ALONE.device).probe(32, (1, 2, 4), longest=4.0)
    assert found.samples[1] == 128
    assert found.law.critical_batch > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in parts.task.model.state_dict().items())


def test_the_command_prints_and_writes(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe.json"
    small = ["--set", "model.hidden_size=16", "--length", "8", "--precision", "fp32"]
    length = ["--steps", "64", "--throughput-seconds", "0.1", "--largest-batch", "4", "--device", "cpu"]
    argv = ["probe", "byte-lm", "--data", str(corpus), "--batch-size", "4", *small, *length, "--out", str(out)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("noise scale", "preconditioned", "usable", "samples/s", "clipped", str(out)[:20])
    )
    assert read_probe(out).global_batch_size == 4
    assert (read_probe(out).optimizer, read_probe(out).model) == ("Adam", json.loads(out.read_text())["model"])
    assert main(["probe", "byte-lm", "--data", str(corpus), "--steps", "3"]) == 2
    assert "too few" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_the_work(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Probe:
        raise AssertionError("it must not train")

    monkeypatch.setattr("overnight.tune.probing.probe", never)
    assert main(["probe", "byte-lm", "--data", str(corpus), "--steps", "64", "--out", "nowhere/probe.json"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["probe", "runs/nothing", "--steps", "64"]) == 2
    assert "runs/nothing does not exist" in capsys.readouterr().err


def test_it_says_how_far_it_has_come(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.tune.probing.TELL_SECONDS", 0.0)
    told: list[str] = []
    probe(tiny(corpus, steps=100), SHORT, told.append)
    assert sum(line.startswith("step ") for line in told) == 63, "all but the last"
    assert "step 63 of 64, " in told[-1]


@pytest.mark.parametrize("wrong", ["x", None, 3, [], [1], {"a": "x"}])
def test_a_file_with_other_contents_is_told(tmp_path: Path, wrong: object) -> None:
    path, whole = tmp_path / "probe.json", json.loads(json.dumps(probed().to_json()))
    for name in ("noise", "layers", "throughput", "samples_per_epoch"):
        path.write_text(json.dumps({**whole, name: wrong}))
        if name == "samples_per_epoch" and wrong == 3:
            continue
        if name == "throughput" and wrong is None:
            assert read_probe(path).throughput is None
        else:
            with pytest.raises(UserError, match=r"is not whole: .* Make it again"):
                read_probe(path)
