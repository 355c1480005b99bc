"""The Triton cell beside the eager one, on the CPU under Triton's interpreter; tests/gpu has what needs a device."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from overnight.nn.fast import triton_cell
from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.triton_cell import TritonCell, cell_for, why_not_triton

PROGRAM = Path(__file__).with_name("interpreted_cell.py")
# to bfloat16 the interpreter truncates where a device rounds: units in the last place, more over the steps of a layer
TOLERANCES = {"float32": {"cell": 1e-6, "layer": 2e-6}, "bfloat16": {"cell": 2**-6, "layer": 2**-5}}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed (the extra gpu)")
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_kernels_write_what_the_eager_cell_writes(dtype: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, dtype],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["cell"]) > 90
    assert len(found["layer"]) > 50
    for kind, most in TOLERANCES[dtype].items():
        assert {case: off for case, off in found[kind].items() if not off <= most} == {}


def cell_on(monkeypatch: pytest.MonkeyPatch, reason: str, dtype: torch.dtype = torch.float32) -> object:
    monkeypatch.setattr(triton_cell, "DEVICES", {"cpu"})
    monkeypatch.setattr(triton_cell, "_why_not_on", lambda device: reason)
    monkeypatch.setattr(triton_cell, "kernels", SimpleNamespace)
    return cell_for(torch.zeros(2, 3, dtype=dtype), torch.zeros(2, 3, dtype=torch.promote_types(dtype, torch.float32)))


def test_which_cell_is_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "overnight")
    assert isinstance(cell_for(torch.zeros(2, 3), torch.zeros(2, 3)), EagerCell)
    assert isinstance(cell_on(monkeypatch, ""), TritonCell)
    assert isinstance(cell_on(monkeypatch, "", torch.bfloat16), TritonCell)
    assert not caplog.records, "on the CPU nothing is missing, and Triton's is what is wanted"
    assert isinstance(cell_on(monkeypatch, "", torch.float64), EagerCell)
    assert "not on float64" in caplog.text
    caplog.clear()
    triton_cell._say.cache_clear()
    for _ in range(2):
        assert isinstance(cell_on(monkeypatch, "no compiler"), EagerCell)
    assert [record.getMessage() for record in caplog.records] == [
        "The recurrent cell runs in eager operations: no compiler."
    ]


def test_why_triton_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert "this is the CPU" in why_not_triton(device, torch.float32)
    assert "this is mps" in why_not_triton(torch.device("mps"), torch.float32)
    monkeypatch.setattr(triton_cell, "DEVICES", {"cpu"})
    triton_cell._why_not_on.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_not_triton(device, torch.float32) == "Triton is not installed (the extra gpu)"

    def broken() -> None:
        raise RuntimeError("Failed to find C compiler.\nDetails.")

    triton_cell._why_not_on.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(triton_cell, "kernels", broken)
    assert why_not_triton(device, torch.float32) == "Triton cannot compile here: Failed to find C compiler."
    triton_cell._why_not_on.cache_clear()
