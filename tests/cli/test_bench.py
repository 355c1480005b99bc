"""`overnight bench`: real steps of the trainer, timed; what they foretell; what is left out and refused."""

import runpy
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from oracles.corpus import write_corpus

from overnight.cli import main
from overnight.doctor.bench import stepping
from overnight.doctor.bench.memory import needed_bytes, parameter_count
from overnight.doctor.recurrence import case_of
from overnight.doctor.recurrence.products import packing_is_faster
from overnight.doctor.recurrence.race import CONTESTANTS, SQUARE, race
from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.recipes.byte_lm import byte_lm
from overnight.recipes.byte_presets import PRESETS, Preset
from overnight.train.precision import choose_precision
from overnight.train.step import Stepper, StepResult

LANES, LENGTH, HIDDEN = 4, 8, 16
SHORT = ("--device", "cpu", "--minutes", "0.003")


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, hidden, length in (("tiny", HIDDEN, LENGTH), ("twin", HIDDEN, LENGTH), ("long", HIDDEN, 512)):
        monkeypatch.setitem(PRESETS, name, Preset("a test", hidden, LANES, length, 1e-3, minutes=1.0))
    monkeypatch.setitem(SQUARE, "cpu", 64)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [bytes(97 + (index * place) % 26 for place in range(99)) + b"\n" for index in range(1, 21)]
    return write_corpus(tmp_path / "corpus", train=[documents], valid=[documents[:5]])


class Spy(Stepper):
    """A stepper that notes which batches it was given."""

    batches: list[Any] = []  # noqa: RUF012

    def __call__(self, batches: list[Any], carry: Any) -> StepResult:
        self.batches.extend(batches)
        return super().__call__(batches, carry)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(stepping, "Stepper", Spy)
    monkeypatch.setattr(Spy, "batches", [])
    return Spy.batches


def measured(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    assert main(["bench", *SHORT, *map(str, argv), "--json"]) == 0
    found: dict[str, Any] = orjson.loads(capsys.readouterr().out)
    return found


def test_what_is_foretold_follows_from_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--preset", "tiny", "--bytes", "4e9")
    (one,) = found["trained"]
    assert (one["names"], one["global_batch_size"], one["length"], one["skipped"]) == (["tiny"], LANES, LENGTH, "")
    speed = one["speed"]
    assert speed["window"] == LENGTH
    assert speed["steps"] >= 2
    assert speed["bytes_per_s"] * speed["step_seconds"] == pytest.approx(LANES * LENGTH)
    assert one["epoch_seconds"] * speed["bytes_per_s"] == pytest.approx(4e9)
    chosen = choose_precision(torch.device("cpu"))
    assert (found["precision"]["name"], found["precision"]["reason"]) == (chosen.name, chosen.reason)
    assert found["recurrence"]["chosen"]
    assert found["recurrence"]["reason"]
    race_rows = found["recurrence"]["race"]
    assert {row["name"] for row in race_rows} == set(CONTESTANTS)
    for row in race_rows:
        assert (row["gates"], row["hidden"], row["batch"]) == ("multiplicative", HIDDEN, LANES)
        assert row["forward_backward"]["median_s"] > 0


def test_the_steps_are_the_trainers_and_read_the_corpus(
    capsys: pytest.CaptureFixture[str], corpus: Path, spied: list[Any]
) -> None:
    found = measured(capsys, "--preset", "tiny", "--corpus", corpus)
    assert found["text_bytes"] == 2000
    text = (corpus / "train" / "00000.bin").read_bytes() * 2
    whole = [batch for batch in spied if len(batch.input_TB) == LENGTH]
    assert len(whole) == found["trained"][0]["speed"]["steps"] + 1
    for batch in whole:
        assert batch.input_TB.shape == (LENGTH, LANES)
        assert all(bytes(lane.tolist()) in text for lane in batch.input_TB.t())


def test_presets_that_make_the_same_steps_are_measured_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--preset", "tiny", "twin")
    assert [one["names"] for one in found["trained"]] == [["tiny", "twin"]]


def test_the_batch_and_the_precision_are_those_asked_for(capsys: pytest.CaptureFixture[str], spied: list[Any]) -> None:
    found = measured(capsys, "--preset", "tiny", "--batch-size", "6", "--precision", "fp32")
    assert found["trained"][0]["global_batch_size"] == 6
    assert found["precision"]["name"] == "fp32"
    assert {row["precision"] for row in found["recurrence"]["race"]} == {"fp32"}
    assert {batch.input_TB.shape[1] for batch in spied} == {6}


def test_what_takes_too_long_is_extrapolated_and_marked(capsys: pytest.CaptureFixture[str], spied: list[Any]) -> None:
    assert main(["bench", "--device", "cpu", "--preset", "long", "--minutes", "0"]) == 0
    said = capsys.readouterr().out
    assert "~ extrapolated from shorter windows" in said
    assert said.splitlines()[1].count("~") == 3
    assert max(len(batch.input_TB) for batch in spied) < 512


def test_the_extrapolation_of_a_step_that_is_a_constant_and_so_much_a_byte(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping._Trainer, "step", lambda _, window: 0.5 + 0.01 * window)
    found = measured(capsys, "--preset", "long", "--minutes", "0")["trained"][0]
    assert found["speed"]["window"] < 512
    assert found["speed"]["step_seconds"] == pytest.approx(0.5 + 0.01 * 512)
    assert found["speed"]["bytes_per_s"] == pytest.approx(found["global_batch_size"] * 512 / (0.5 + 0.01 * 512))


def test_the_table_names_every_preset_and_the_reasons(capsys: pytest.CaptureFixture[str], corpus: Path) -> None:
    assert main(["bench", *SHORT, "--preset", "tiny", "--corpus", str(corpus)]) == 0
    page, race_table = capsys.readouterr().out.split("\n\nmultiplicative: ")
    lines = page.splitlines()
    assert "one pass of 2 kB" in lines[0]
    assert lines[1].split()[:5] == ["tiny", str(HIDDEN), str(LANES), "×", str(LENGTH)]
    assert [line.split()[0] for line in lines[3:6]] == ["device", "precision", "recurrence"]
    assert all(len(line) <= 80 for line in lines)
    assert race_table.startswith(f"{HIDDEN} units, h {HIDDEN}, input 64, batch {LANES}, ")
    assert all(f"\n  {name} " in race_table for name in CONTESTANTS)
    assert race_table.endswith("overnight bench --recurrence [--preset …] [--maps …]\n")


def test_a_preset_that_does_not_fit_is_left_out_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("overnight.doctor.bench.available_bytes", lambda _: 1_000_000_000)
    assert main(["bench", *SHORT, "--preset", "8192", "tiny"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8192: not measured, it needs about" in said
    assert "GB and 1.0 GB can be used; trained with a --micro-batch-size below 128 it needs less." in said
    assert "tiny 16 4 × 8" in said


def test_running_out_of_memory_in_a_step_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stepper, "__call__", burst)
    with pytest.raises(UserError) as caught:
        main(["bench", *SHORT, "--preset", "tiny", "--debug"])
    assert caught.value.problem == "Nothing could be measured (tiny: Its step does not fit into memory)."


@pytest.mark.parametrize(("hidden", "embedding"), [(16, 64), (33, 7)])
def test_parameters_are_counted_without_a_model(hidden: int, embedding: int) -> None:
    model = ByteLM(hidden, embedding)
    assert parameter_count(hidden, embedding) == sum(parameter.numel() for parameter in model.parameters())


def test_memory_grows_with_the_micro_batch_and_the_precision(corpus: Path) -> None:
    precisions = [choose_precision(torch.device("cpu"), name) for name in ("fp32", "bf16")]
    whole = byte_lm(corpus, preset="1024", batch_size=128)
    part = byte_lm(corpus, preset="1024", batch_size=128, micro_batch_size=32)
    wide, narrow = (needed_bytes(whole, precision)[1] for precision in precisions)
    assert wide > narrow > needed_bytes(part, precisions[1])[1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--minutes=-1",), "--minutes -1 cannot work. Give at least 0."),
        (("--minutes=nan",), "--minutes nan cannot work. Give at least 0."),
        (("--bytes", "0"), "--bytes 0 cannot work. Give at least 1."),
        (("--bytes", "inf"), "--bytes inf cannot work. Give at least 1."),
        (("--preset", "labtop"), "There is no preset 'labtop'. Did you mean laptop?"),
        (("--preset", "tiny", "--batch-size", "0"), "--batch-size 0 cannot work. Give at least 1."),
        (("--maps", "dense"), "--maps is a setting of --recurrence."),
        (("--corpus", "nowhere"), "nowhere is not a prepared corpus (it has no manifest.json)."),
        (("--corpus", "nowhere", "--bytes", "5"), "A corpus has a size of its own. Give --corpus or --bytes."),
    ],
)
def test_mistakes(argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SHORT, *argv]) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith(f"overnight: {said}")


def test_corpora_that_cannot_be_trained_on(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_corpus(tmp_path / "empty", valid=[[b"a\n"]])
    assert main(["bench", *SHORT, "--preset", "tiny", "--corpus", str(empty)]) == 2
    assert "empty has nothing to train on. Prepare it with a training split." in capsys.readouterr().err
    assert main(["bench", *SHORT, "--preset", "long", "--corpus", str(corpus)]) == 2
    said = capsys.readouterr().err
    assert "Nothing could be measured (long: The corpus has 2,000 bytes, too few for 4 lanes of 512 bytes" in said


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a-job")
    assert main(["bench", *SHORT]) == 2
    assert "Start overnight bench without torchrun." in capsys.readouterr().err


def test_the_recurrence_is_raced_against_its_rivals(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "--recurrence", "--preset", "tiny", "--batch-size", "2", "--minutes", "0", "--device", "cpu"]
    assert main([*argv, "--json"]) == 0
    rows = orjson.loads(capsys.readouterr().out)["results"]
    assert [row["name"] for row in rows][:2] == ["fast bf16", "fast fp32"]
    for row in rows:
        assert row["batch"] == 2
        both = row["forward_backward"]
        assert both["steps_per_s"] == pytest.approx(row["batch"] * row["time"] / both["median_s"])
    naive = next(row for row in rows if row["name"] == "naive fp32")
    fast = next(row for row in rows if row["name"] == "fast bf16")
    ratio = naive["forward_backward"]["median_s"] / fast["forward_backward"]["median_s"]
    assert fast["forward_backward"]["speed_to_naive_fp32"] == pytest.approx(ratio)
    assert main(argv) == 0
    assert "nn.LSTM bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--preset", "nope"), "no preset 'nope'"),
        (("--bytes", "1e9"), "no part in --recurrence"),
        (("--batch-size", "0"), "--batch-size 0 cannot work. Give at least 1."),
        (("--batch-size=-3",), "--batch-size -3 cannot work. Give at least 1."),
        (("--precision", "fp16"), "The recurrence is not raced in fp16. Give --precision fp32, bf16 or auto."),
        (("--maps", "desne"), "There is no gate map 'desne'. Choose from multiplicative, dense,"),
        (("--maps", "dense", "grouped-projected", "--preset", "odd"), "24 units of grouped-projected do not make 4"),
    ],
)
def test_mistakes_in_a_race(
    argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "odd", Preset("a test", 24, LANES, LENGTH, 1e-3, minutes=1.0))
    assert main(["bench", "--recurrence", *argv]) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err


def test_the_maps_and_the_precision_of_a_race_are_those_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "--recurrence", "--preset", "tiny", "--minutes", "0", "--device", "cpu", "--json"]
    assert main([*argv, "--maps", "dense", "factorized-projected", "--precision", "fp32"]) == 0
    rows = orjson.loads(capsys.readouterr().out)["results"]
    assert {(row["gates"], row["output"]) for row in rows} == {("dense", HIDDEN), ("factorized", HIDDEN // 4)}
    assert {row["name"] for row in rows} == {"fast fp32", "naive fp32", "nn.LSTM fp32", "products fp32"}
    assert main([*argv, "--precision", "bf16"]) == 0
    names = {row["name"] for row in orjson.loads(capsys.readouterr().out)["results"]}
    assert {name for name in names if name.endswith("fp32")} == {"naive fp32"}
    assert "fast bf16" in names


def test_the_short_race_is_left_out_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("overnight.doctor.bench.needed_bytes", lambda *_: (10**9, 1))
    monkeypatch.setattr("overnight.doctor.bench.available_bytes", lambda _: 10**9)
    assert main(["bench", *SHORT, "--preset", "tiny"]) == 0
    assert "recurrence not raced: it needs about 72.0 GB." in capsys.readouterr().out


@pytest.mark.parametrize("slower", [True, False])
def test_the_floor_packs_its_weights_only_where_that_is_faster(slower: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    turns = []

    def work(pack: bool) -> None:
        turns.append(pack)
        # the first turn of each is slow, as a warm-up is
        clock[0] += (0.02 if pack == slower else 0.01) + (0.5 if len(turns) <= 2 else 0.0)

    assert packing_is_faster(work, seconds=1.2) is not slower
    assert turns[:4] == [True, False, True, False]
    assert packing_is_faster(work, seconds=0) is not slower


def test_the_floor_of_a_tiny_case_is_above_every_contestant_of_its_map() -> None:
    case = case_of("factorized-projected", "64/4/8")
    turns = race(case, ["fast fp32", "readable fp32", "naive fp32", "products fp32"], "cpu", 0.0, 20)
    least = {name: min(both for _, both, _ in found) for name, found in turns.items()}
    assert least.pop("products fp32") < min(least.values())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--sizes", "0/1/1"), "'0/1/1' is not a size. Give units/batch/steps, such as 1024/128/64."),
        (("--maps", "dense", "grouped", "--sizes", "63/4/8"), "63 units of grouped do not make 4 groups."),
        (("--maps", "dense-projected", "--sizes", "3/4/8"), "3 units are too few for dense-projected."),
        (("--rounds", "0"), "--rounds 0 cannot work. Give at least 1."),
        (("--threads=-2",), "--threads -2 cannot work. Give at least 1."),
        (("--seconds", "nan"), "--seconds nan cannot work. Give at least 0."),
        (("--device", "cuda"), "--device cuda was asked for, but torch sees no CUDA device. Use --device cpu."),
    ],
)
def test_mistakes_of_the_benchmark_are_one_line_before_anything_is_measured(
    argv: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "recurrence.py"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    written = tmp_path / "race.json"
    monkeypatch.setattr("sys.argv", [str(path), "--json", str(written), *argv])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(path), run_name="__main__")
    heard = capsys.readouterr()
    assert left.value.code == 2
    assert heard.out == ""
    assert heard.err.startswith(f"recurrence: {said}")
    assert heard.err.count("\n") == 1
    assert not written.exists()
