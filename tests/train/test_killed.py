"""Nothing is lost: killed at any moment and resumed, a run ends with the bits of one that was never interrupted."""

import random
from pathlib import Path

import pytest
from train.launching import arguments, lines, overnight, same_end, start

STEPS = 20
SETTINGS = {"steps": STEPS, "checkpoint_steps": 4, "keep_last": 2}
HOW = [("fp32", 1), ("bf16", 1), ("fp32", 2), ("bf16", 2), ("fp32", 4)]
Whole = dict[tuple[str, int], Path]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Uninterrupted runs by precision and ranks."""
    folder = tmp_path_factory.mktemp("whole")
    runs = {}
    for precision, ranks in HOW:
        out = runs[precision, ranks] = folder / f"{precision}-{ranks}"
        overnight(arguments(corpus, out, precision=precision, **SETTINGS), folder / "logs", ranks)
        assert [line["step"] for line in lines(out / "metrics.jsonl")] == list(range(1, STEPS + 1))
        assert [line["step"] for line in lines(out / "eval.jsonl")] == [STEPS // 2, STEPS]
    return runs


@pytest.mark.parametrize(("precision", "ranks"), HOW)
def test_killed_at_random_steps(corpus: Path, whole: Whole, tmp_path: Path, precision: str, ranks: int) -> None:
    draw = random.Random(f"{precision} {ranks}")
    out = tmp_path / "run"
    argv = arguments(corpus, out, precision=precision, **SETTINGS)
    for step in sorted(draw.sample(range(1, STEPS - 1), 3)):
        running = start(argv, tmp_path / "logs", ranks)
        running.until(lambda step=step: len(lines(out / "metrics.jsonl")) >= step)
        running.kill()
        argv = ["train", str(out), "--resume"]
    overnight(argv, tmp_path / "logs", ranks)
    same_end(out, whole[precision, ranks])


@pytest.mark.parametrize(
    ("precision", "ranks", "seed"), [("fp32", 1, 0), ("bf16", 1, 1), ("fp32", 1, 2), ("fp32", 2, 3)]
)
def test_killed_while_writing(
    corpus: Path, whole: Whole, tmp_path: Path, precision: str, ranks: int, seed: int
) -> None:
    """At the n-th opening, renaming or removing of a file in the run folder, six times in a row."""
    draw = random.Random(seed)
    out = tmp_path / "run"
    first = arguments(corpus, out, precision=precision, **SETTINGS)
    for _ in range(6):
        argv = ["train", str(out), "--resume"] if (out / "run.json").exists() else first
        running = start(argv, tmp_path / "logs", ranks, die_at=(out, draw.randrange(150)))
        assert running.wait()[0] in (-9, 0), running.output()
    overnight(["train", str(out), "--resume"], tmp_path / "logs", ranks)
    same_end(out, whole[precision, ranks])
    assert not [*out.glob(".*"), *(out / "checkpoints").glob(".*")]
