"""Every example runs as a user runs it, and reaches what it should. One whose library is missing is skipped."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from train.launching import LOOPBACK

FOLDER = Path(__file__).parents[2] / "examples"
ALONE = {"lamb_loop": (), "lamb_accelerate": ("accelerate",), "lars_fabric": ("lightning",)}
ALONE |= {"lamb_trainer": ("transformers", "accelerate")}
ON_RANKS = ("lars_ddp", "lamb_fsdp2", "local_steps")
WITH_DATA = ("byte_lm_loop", "mnist_full_batch")


def run(*words: object, folder: Path) -> str:
    environment = os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(printed: str) -> float:
    found = re.search(r"accuracy ([\d.]+)%", printed)
    assert found, printed
    return float(found[1])


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*ALONE, *ON_RANKS, *WITH_DATA}


@pytest.mark.parametrize("name", ALONE)
def test_example(name: str, tmp_path: Path) -> None:
    missing = [library for library in ALONE[name] if importlib.util.find_spec(library) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (the extra loops)")
    assert accuracy(run(FOLDER / f"{name}.py", folder=tmp_path)) > 99


@pytest.mark.parametrize("name", ON_RANKS)
def test_example_on_two_ranks(name: str, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--rdzv-backend", "c10d")
    printed = run(*torchrun, "--rdzv-endpoint", "127.0.0.1:0", FOLDER / f"{name}.py", folder=tmp_path)
    assert printed.count("2 ranks, batch 1024") == 1
    assert accuracy(printed) > 99


def test_byte_lm_loop(tmp_path: Path) -> None:
    printed = run(FOLDER / "byte_lm_loop.py", __file__, "--steps", 25, folder=tmp_path)
    bits = [float(number) for number in re.findall(r"([\d.]+) bits per byte", printed)]
    assert bits[0] > 7.5
    assert bits[-1] < bits[0] - 2


@pytest.mark.skipif("OVERNIGHT_DATA" not in os.environ, reason="OVERNIGHT_DATA names no folder of data")
def test_mnist_full_batch(tmp_path: Path) -> None:
    printed = run(FOLDER / "mnist_full_batch.py", "--samples", 400, folder=tmp_path)
    assert printed.count("rate") == 35
    assert accuracy(printed) > 75
