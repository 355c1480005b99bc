"""Sampled gradients and local steps under the real torchrun: a worker is killed, and the run ends as if it had not."""

from pathlib import Path

import pytest
from distributed.test_torchrun import Torchrun
from train.launching import arguments, lines, overnight, same_end

SETTINGS = {"steps": 30, "checkpoint_steps": 5, "evaluations": 1, "keep_last": 9}


@pytest.mark.parametrize("way", ["sampled", "local"])
def test_a_worker_that_is_killed_is_started_again_and_goes_on(corpus: Path, tmp_path: Path, way: str) -> None:
    settings = SETTINGS | ({"parallel.every": 3} if way == "local" else {"parallel.rate": 0.25})

    def argv(out: Path) -> list[str]:
        return [*arguments(corpus, out, **settings), "--parallel", way]

    overnight(argv(tmp_path / "whole"), tmp_path / "logs", 2)
    running = Torchrun(tmp_path / "log", argv(tmp_path / "run"), "--max-restarts", "1")
    running.until(lambda: _last(tmp_path / "run") >= 8)
    running.worker(1).kill()
    assert running.wait() == 0, running.output()
    assert "resumed at step " in running.output()
    same_end(tmp_path / "run", tmp_path / "whole")


def _last(run: Path) -> int:
    return max((line["step"] for line in lines(run / "metrics.jsonl")), default=0)
