"""From one tuned baseline to recipes at other batches: settings, costs, files, and what is refused."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from train.launching import tiny
from train.toys import ToyModel, toy
from tune.probes import CURVE, ENDLESS, noise, probed

from overnight.cli import main
from overnight.errors import UserError
from overnight.report.why import write_plan
from overnight.scaling.links import LINKS
from overnight.schedule import multistep
from overnight.train.average import WeightAverage
from overnight.train.launch import Options, train
from overnight.train.run import Run
from overnight.tune.baseline import baseline_of
from overnight.tune.limits import largest_data_batch
from overnight.tune.outlook import Costs, returns_end
from overnight.tune.plan import scale
from overnight.tune.settings import RULES


@pytest.fixture
def baseline(corpus: Path) -> Run:
    """Adam at batch 4, a warm-up of 4 steps, 400 steps."""
    return tiny(corpus, steps=400)


def lines(plan: Any, at: int = 0) -> dict[str, Any]:
    return {setting.name: setting for setting in plan.targets[at].settings}


def test_a_baseline_is_read_off_the_components(baseline: Run) -> None:
    found = baseline_of(baseline)
    tuned = found.tuned
    assert (tuned.global_batch_size, tuned.warmup_steps, tuned.total_samples) == (4, 4, 1600)
    assert (tuned.betas, tuned.eps, tuned.max_norm) == ((0.9, 0.99), 1e-8, baseline.max_norm)
    assert found.adaptive
    assert not baseline_of(toy()).adaptive
    assert baseline_of(toy()).tuned.momentum == 0.9
    minutes = replace(baseline, steps=None, minutes=1.0)
    assert baseline_of(minutes).tuned.total_samples is None
    assert baseline_of(minutes, samples_per_second=10.0).tuned.total_samples == 600


def test_legw_keeps_the_warm_up_s_steps_and_multiplies_the_rate_by_the_root(baseline: Run) -> None:
    (target,) = scale(baseline, [64], rule="legw").targets
    run = target.run
    assert run.optimizer.keywords["lr"] == pytest.approx(4 * baseline.optimizer.keywords["lr"])
    assert run.schedule.keywords["warmup_samples"] == 4 * 64
    assert (run.global_batch_size, run.steps, run.epochs, run.minutes) == (64, 25, None, None)
    assert run.optimizer.keywords["betas"] == baseline.optimizer.keywords["betas"]
    assert Run.from_json(json.loads(json.dumps(run.to_json()))).to_json() == run.to_json()
    assert "LEGW" in run.notes[-1]


def test_date_takes_everything_counted_in_steps_along_with_the_gain(baseline: Run) -> None:
    plan = scale(baseline, [64], rule="date", probe=probed(preconditioned=noise(20.0)))
    run, r = plan.targets[0].run, (1 + 20 / 4) / (1 + 20 / 64)
    old = baseline.optimizer.keywords
    assert run.optimizer.keywords["lr"] == pytest.approx(old["lr"] * math.sqrt(r))
    assert run.optimizer.keywords["betas"] == pytest.approx((0.9 ** math.sqrt(r), 0.99**r))
    assert run.optimizer.keywords["eps"] == pytest.approx(1e-8 / math.sqrt(r))
    assert run.max_norm == pytest.approx((baseline.max_norm or 0) / math.sqrt(r))
    assert run.steps == math.ceil(400 / r)
    costs = plan.targets[0].costs
    assert costs["gain"] == pytest.approx(r)
    assert costs["samples_ratio"] == pytest.approx((1 + 64 / 20) / (1 + 4 / 20))
    assert costs["planned_steps"] == costs["steps"], "the plan lengthens as the law says"
    assert any("Past the critical batch of about 20" in risk for risk in plan.targets[0].risks)


def test_momentum_sgd_takes_the_gain_itself_and_a_plain_optimizer_keeps_no_betas() -> None:
    run = replace(toy(steps=800), global_batch_size=8)
    probe = probed(recipe="toy", global_batch_size=8, preconditioned=None, noise=noise(20.0), throughput=None)
    target = scale(run, [32], rule="date", probe=probe).targets[0]
    assert target.run.optimizer.keywords["lr"] == pytest.approx(0.05 * (1 + 20 / 8) / (1 + 20 / 32))
    assert {setting.name for setting in target.settings} == {
        *("rate", "warm-up", "length", "momentum", "weight decay", "clip", "trust ratio")
    }


def test_momentum_sgd_without_a_measurement_takes_legw_s_root() -> None:
    run = toy(steps=2000)
    batch = run.global_batch_size
    unusable = probed(recipe="toy", global_batch_size=batch, preconditioned=None, noise=ENDLESS)
    for probe in (None, unusable):
        plan = scale(run, [64 * batch], rule="date", probe=probe)
        assert plan.targets[0].run.optimizer.keywords["lr"] == pytest.approx(8 * run.optimizer.keywords["lr"])
        assert "√k, LEGW's" in lines(plan)["rate"].why


def test_decay_of_groups_positions_of_schedules_and_an_average_move_along() -> None:
    run = replace(
        toy(steps=800),
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        schedule=partial(multistep, milestones=(3200, 4800), warmup_samples=80),
        ema=partial(WeightAverage, decay=0.9),
    )
    probe = probed(recipe="toy", global_batch_size=8, preconditioned=noise(20.0), throughput=None)
    found = scale(run, [32], rule="date", probe=probe).targets[0].run
    r = (1 + 20 / 8) / (1 + 20 / 32)
    assert found.optimizer.keywords["weight_decay"] == pytest.approx(0.1 * math.sqrt(r))
    assert found.schedule.keywords["milestones"] == pytest.approx((3200 * 4 / r, 4800 * 4 / r))
    assert found.schedule.keywords["warmup_samples"] == 320
    assert found.ema is not None
    assert found.ema.keywords["decay"] == pytest.approx(0.9**r)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_an_arm_with_a_reason_and_a_reference_for_each_setting(baseline: Run, rule: str) -> None:
    plan = scale(baseline, [16, 32], rule=rule, probe=probed())
    assert [target.k for target in plan.targets] == [4, 8]
    for target in plan.targets:
        assert all(setting.why.endswith(".") and setting.reference for setting in target.settings)
        assert target.run.global_batch_size == target.hyperparameters.global_batch_size
        target.run.check()
    json.dumps(plan.to_json(), allow_nan=False)


def test_hours_are_samples_by_the_measured_curve_in_micro_batches_that_fit(baseline: Run) -> None:
    target = scale(baseline, [64], rule="sqrt", probe=probed()).targets[0]
    assert target.costs["step_seconds"] == pytest.approx(4 * 0.016), "64 is 4 micro-batches of 16"
    assert target.costs["planned_hours"] == pytest.approx(25 * 4 * 0.016 / 3600)
    assert target.run.micro_batch_size == 16
    ratio = (1 + 64 / 20) / (1 + 4 / 20)
    assert target.costs["hours"] == pytest.approx(ratio * 25 * 4 * 0.016 / 3600)
    assert any("fewer samples than the law says" in risk for risk in target.risks)


def test_several_devices_add_a_ring_all_reduce_over_their_link(baseline: Run) -> None:
    target = scale(baseline, [64], rule="sqrt", probe=probed(), devices=4, link="1G").targets[0]
    computing, exchanging = 0.016, 2 * 3 / 4 * 4e6 * 8 / LINKS["1G"].bits_per_second
    low, high = target.costs["shared_step_seconds"]
    assert low >= max(computing, exchanging)
    assert high == pytest.approx(computing + exchanging, rel=0.1), "and headers and latency"
    assert target.run.micro_batch_size is None, "a quarter of the batch fits as it is"


def test_returns_end_where_twice_the_batch_saves_less_than_a_tenth() -> None:
    costs = Costs(8, 1e6, 15.0, CURVE)
    rungs = [costs.at(batch) for batch in (8, 16, 32, 64, 128, 256)]
    assert returns_end(rungs, "steps") == 64, "(1 + 2 B/Bc) / (2 + 2 B/Bc) is 0.9 at 4 Bc"
    assert returns_end(rungs, "hours") == 16, "there the device is used well already"
    assert returns_end(rungs, "shared_hours") is None


def test_what_the_user_fixed_no_rule_changes(baseline: Run) -> None:
    held = ("max_norm=0.25", "optimizer.betas=(0.5, 0.6)")
    for assignment in held:
        baseline = baseline.with_setting(assignment)
    plan = scale(baseline, [64], probe=probed(), fixed=held)
    assert plan.targets[0].run.max_norm == 0.25
    assert plan.targets[0].run.optimizer.keywords["betas"] == (0.5, 0.6)
    assert {name for name, row in lines(plan).items() if row.why == "As you set it."} == {"clip", "betas"}


def test_noise_that_is_not_to_be_believed_is_not_used(baseline: Run) -> None:
    plan = scale(baseline, [64], probe=probed(preconditioned=ENDLESS))
    legw = scale(baseline, [64], rule="legw").targets[0]
    assert plan.targets[0].hyperparameters.lr == pytest.approx(legw.hyperparameters.lr), "unmeasured, r is k"
    assert "its interval goes from 30 to ∞, more than a factor of 4" in plan.notes[0]
    assert plan.targets[0].costs["epochs"] is None
    with pytest.raises(UserError, match=r"noise scale is not to be used: .* Probe longer"):
        scale(baseline, [64], rule="adascale", probe=probed(preconditioned=ENDLESS))
    branched = probed(preconditioned=ENDLESS, critical_batch=noise(50.0, 30.0, 90.0))
    assert scale(baseline, [64], probe=branched).targets[0].costs["gain"] == pytest.approx((1 + 50 / 4) / (1 + 50 / 64))
    # branches that say too little do not hide a noise scale that can be used
    hidden = scale(baseline, [64], probe=probed(critical_batch=noise(50.0, 0.0, math.inf)))
    assert hidden.targets[0].costs["gain"] == pytest.approx((1 + 20 / 4) / (1 + 20 / 64))
    assert hidden.critical is not None
    assert hidden.critical["what"] == "preconditioned noise scale"
    neither = probed(preconditioned=ENDLESS, critical_batch=noise(50.0, 0.0, math.inf))
    assert "The critical batch by branched runs is not used" in scale(baseline, [64], probe=neither).notes[0]


@pytest.mark.parametrize(("held", "samples"), [("steps=400", 400 * 64), ("epochs=2", None)])
def test_a_length_that_is_held_holds_the_schedule_s_positions_too(held: str, samples: float | None) -> None:
    """Else the last milestones lie behind the end of the run."""
    run = replace(toy(steps=400), schedule=partial(multistep, milestones=(1600, 2400)))
    run = replace(run, steps=None, epochs=2.0) if samples is None else run
    probe = probed(recipe="toy", global_batch_size=8, preconditioned=None, noise=noise(20.0), throughput=None)
    target = scale(run.with_setting(held), [64], probe=probe, fixed=[held]).targets[0]
    stretch = 8 if samples is not None else 1
    assert target.run.schedule.keywords["milestones"] == (1600 * stretch, 2400 * stretch)
    assert samples is None or target.hyperparameters.total_samples == samples
    assert target.run.notes[-1].endswith(f"As given, whatever the rule: {held}.")


def test_a_held_length_bounds_the_warm_up(baseline: Run) -> None:
    run = replace(baseline, steps=None, epochs=0.05).with_setting("epochs=0.05")
    target = scale(run, [64], probe=probed(), fixed=["epochs=0.05"]).targets[0]
    total = baseline_of(run).tuned.total_samples
    assert total is not None
    assert target.run.epochs == 0.05
    assert target.run.schedule.keywords["warmup_samples"] <= max(16, 0.3 * total)


def test_a_probe_of_another_optimizer_or_model_is_refused(baseline: Run) -> None:
    model = json.loads(json.dumps(baseline.to_json()["model"]))
    assert scale(baseline, [64], probe=probed(optimizer="Adam", model=model)).critical is not None
    with pytest.raises(UserError, match="The probe is of byte-lm with SGD, and the baseline has Adam"):
        scale(baseline, [64], probe=probed(optimizer="SGD"))
    other = baseline.with_setting("model.hidden_size=24")
    with pytest.raises(UserError, match="another model of byte-lm"):
        scale(other, [64], probe=probed(model=model))


@pytest.mark.parametrize(
    ("batches", "settings", "said"),
    [
        ([10], {}, r"Batch 10 is not a whole number of times the baseline's 4 \(k = 2\.5\)\. Take --to 8 or --to 12\."),
        ([2], {}, r"Batch 2 is below the baseline's 4 \(k = 0\.5\)"),
        ([], {}, "no batch to scale to"),
        ([8], {"rule": "cube"}, "no rule 'cube'"),
        ([8], {"rule": "adascale"}, "AdaScale's gain needs a measured noise scale"),
        ([64], {"rule": "adam_sde"}, r"does not reach k = 16 from a beta of 0\.9"),
        ([8], {"devices": 2}, "2 devices cannot be planned without their link"),
        ([12], {"devices": 8, "link": "10G"}, "Batch 12 cannot be shared by 8 devices"),
        ([8], {"devices": 2, "link": "soup", "probe": probed()}, "No link is named 'soup'"),
        ([8], {"fixed": ("optimizer.lr=0.1",)}, "The rate is given and so is the rule date"),
        ([8], {"fixed": ("global_batch_size=4",)}, "The batch is given twice"),
        ([8], {"probe": probed(recipe="gnmt")}, r"The probe is of gnmt at batch 4, and the baseline is byte-lm"),
        ([4096], {}, r"The data give no batch of 4,096; the largest that fits is \d+"),
        ([4095], {}, r"The data give no batch of 4,095; the largest that fits is \d+"),
        ([8], {"link": "soup"}, "No link is named 'soup'"),
        ([8], {"link": "10G"}, "The link 10G is between devices, and there is one"),
        ([256], {"rule": "legw"}, "warm-up of 1,024 samples is longer than the run of"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    baseline: Run, batches: list[int], settings: dict[str, Any], said: str
) -> None:
    run = replace(baseline, steps=200) if batches == [256] else baseline
    with pytest.raises(UserError, match=said) as caught:
        scale(run, batches, **settings)
    assert "\n" not in str(caught.value)


def test_the_largest_batch_of_the_data_is_found_exactly(corpus: Path) -> None:
    run = tiny(corpus)
    fits = largest_data_batch(run)
    assert fits > run.global_batch_size
    run.data(lanes=fits, seed=0)
    with pytest.raises(UserError):
        run.data(lanes=fits + 1, seed=0)


def test_a_micro_batch_above_the_memory_names_the_largest_that_fits(baseline: Run) -> None:
    with pytest.raises(UserError, match=r"micro-batch of 32 does not fit into memory; the largest .* is 16\."):
        scale(replace(baseline, micro_batch_size=32), [64], rule="sqrt", probe=probed())


def test_a_run_without_a_rate_is_no_baseline() -> None:
    run = replace(toy(), optimizer=partial(torch.optim.Adam))
    with pytest.raises(UserError, match=r"no tuned rate: its torch\.optim\.Adam has no lr"):
        scale(run, [16])
    assert isinstance(run.model(), ToyModel)


def test_the_page_says_every_reason(baseline: Run, tmp_path: Path) -> None:
    plan = scale(baseline, [16, 64], probe=probed(), devices=4, link="10G")
    out = write_plan(json.loads(json.dumps(plan.to_json())), tmp_path / "why.html", ("overnight", "scale", "x<y"))
    page = out.read_text()
    assert all(setting.reference in page for target in plan.targets for setting in target.settings)
    assert page.count("<svg") == 3
    assert "x&lt;y" in page
    assert "Preconditioned noise scale" in page
    bare = scale(baseline, [16], rule="sqrt")
    text = write_plan(json.loads(json.dumps(bare.to_json())), tmp_path / "bare.html").read_text()
    assert "Nothing was measured" in text
    assert "<svg" not in text
    with pytest.raises(UserError, match="no plan of this version"):
        write_plan({"format": "other"}, tmp_path / "no.html")


def test_the_command_writes_runs_that_train(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, probe, out = tmp_path / "base.json", tmp_path / "probe.json", tmp_path / "scaled.json"
    base.write_text(json.dumps({"format": "overnight-run/1", "run": tiny(corpus, steps=40).to_json()}))
    probe.write_text(json.dumps(probed().to_json()))
    argv = ["scale", str(base), "--to", "8", "16", "--probe", str(probe), "--out", str(out)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("batch 8 (k = 2)", "batch 16 (k = 4)", "returns end in steps", "scaled.html"))
    assert sorted(path.name for path in tmp_path.glob("scaled*")) == ["scaled-16.json", "scaled-8.json", "scaled.html"]
    assert main(["train", str(tmp_path / "scaled-16.json"), "--out", str(tmp_path / "run")]) == 0
    written = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert written["global_batch_size"] == 16
    assert written["optimizer"]["kwargs"]["lr"] == pytest.approx(
        5e-3 / math.sqrt(8) * math.sqrt((1 + 20 / 4) / (1 + 20 / 16))
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "finished"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--to", "64", "--lr", "0.1"], "--lr gives the rate, and the rule date derives it"),
        (["--to", "64", "--batch-size", "8"], "--batch-size would move the baseline"),
        (["--to", "64", "--out", "plan.txt"], "Let it end in .json"),
        (["--to", "64", "--probe", "none.json"], "none.json cannot be read"),
        (["--to", "64", "--out", "nowhere/plan.json"], "nowhere does not exist"),
        (["--to", "64", "--optimizer", "torch.optim.Muon2"], "cannot be imported"),
        (["--to", "40", "--steps", "200"], "Batch 40 is not a whole number of times the baseline's 32"),
    ],
)
def test_mistakes_on_the_command_line(
    corpus: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", "byte-lm", "--data", str(corpus), *more]) == 2
    assert said in capsys.readouterr().err


def test_on_line_the_run_begins_as_the_baseline_and_date_takes_it_from_there(baseline: Run, tmp_path: Path) -> None:
    held = ("max_norm=0.25",)
    target = scale(baseline.with_setting(held[0]), [64], probe=probed(), online=True, fixed=held).targets[0]
    run = target.run
    assert run.adapt is not None
    assert run.adapt.keywords["fixed"] == ("max_norm",)
    assert run.adapt.keywords["baseline"].keywords["global_batch_size"] == 4
    assert run.optimizer.keywords["lr"] == baseline.optimizer.keywords["lr"]
    assert (run.global_batch_size, run.micro_batch_size, run.steps) == (64, 4, 25)
    assert target.costs["planned_steps"] > 25, "the plan is what it is expected to do"
    assert train(run, tmp_path / "run", Options(quiet=True))["state"] == "finished"
    again = Run.from_json(json.loads((tmp_path / "run" / "run.json").read_text())["run"])
    with pytest.raises(UserError, match="sets its rate as it trains"):
        scale(again, [128])
    with pytest.raises(UserError, match="does not adapt a run that is under way"):
        scale(baseline, [64], rule="legw", online=True)
