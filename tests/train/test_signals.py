"""SIGTERM and SIGINT save, say so and exit; the run goes on from there with the bits of one never stopped."""

import json
import signal
from pathlib import Path

import pytest
from train.launching import arguments, lines, overnight, same_end, start

STEPS = 40
SETTINGS = {"steps": STEPS, "evaluations": 1, "keep_last": 9}


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("whole")
    for ranks in (1, 2):
        overnight(arguments(corpus, folder / str(ranks), **SETTINGS), folder / "logs", ranks)
    return {ranks: folder / str(ranks) for ranks in (1, 2)}


@pytest.mark.parametrize(
    ("number", "code", "ranks", "to"),
    [(signal.SIGTERM, 143, 1, 0), (signal.SIGINT, 130, 1, 0), (signal.SIGTERM, 143, 2, 1), (signal.SIGINT, 130, 2, 0)],
)
def test_a_signal_saves_and_says_so(
    corpus: Path, whole: dict[int, Path], tmp_path: Path, number: signal.Signals, code: int, ranks: int, to: int
) -> None:
    out = tmp_path / "run"
    running = start(arguments(corpus, out, **SETTINGS), tmp_path / "logs", ranks)
    running.until(lambda: len(lines(out / "metrics.jsonl")) >= 3)
    running.signal(number, to)
    assert running.wait() == [code] * ranks
    (saved,) = sorted((out / "checkpoints").iterdir())
    step = int(saved.name)
    assert 3 <= step < STEPS
    said = f"Stopped by {number.name} at step {step}; saved. Go on with it:\n  overnight train {out} --resume\n"
    assert running.output().count(said) == 1
    assert "Traceback" not in running.output()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["step"]) == ("stopped", step)
    assert number.name in summary["reason"]
    overnight(["train", str(out), "--resume"], tmp_path / "logs", ranks)
    same_end(out, whole[ranks])
    assert json.loads((out / "summary.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("final", [False, True])
def test_a_signal_during_an_evaluation_does_not_wait_for_it(corpus: Path, tmp_path: Path, final: bool) -> None:
    """The evaluation is left to the resumed run."""
    out = tmp_path / "run"
    settings = {"steps": 6, "evaluations": 2, "evaluate": "train.slow.slow_record", "evaluate__slow_final": final}
    running = start(arguments(corpus, out, **settings), tmp_path / "logs")
    running.until(lambda: "evaluating slowly" in running.output())
    running.signal(signal.SIGTERM)
    assert running.wait(50) == [143]
    where = " in the final evaluation; the model is saved." if final else "; saved."
    assert f"Stopped by SIGTERM at step {6 if final else 3}{where}" in running.output()
    overnight(["train", str(out), "--resume", "--trust", "--set", "evaluate.seconds=0"], tmp_path / "logs")
    steps = [line["step"] for line in lines(out / "eval.jsonl")]
    assert steps == ([3, 6] if final else [4, 6])
    assert json.loads((out / "summary.json").read_text())["final"]["bytes"] == 1


def test_the_second_signal_acts_as_usual(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = start(arguments(corpus, out, task="train.slow.StuckTask", steps=9), tmp_path / "logs")
    running.until(lambda: "stuck" in running.output())
    running.signal(signal.SIGINT)
    running.until(lambda: "still stuck" in running.output())
    running.signal(signal.SIGINT)
    assert running.wait(50) == [130]
    assert "overnight: interrupted." in running.output()
