"""The Triton kernels of fused=True, on the CPU under Triton's interpreter; tests/gpu has what needs a device."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train.launching import LOOPBACK

from overnight.optim import LAMB, LARS, cuda_plan, fused_cuda
from overnight.optim.cuda_plan import MOST, ROUND

PROGRAM = Path(__file__).with_name("interpreted.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (the extra gpu)"
)


def interpret(ranks: int, *arguments: Any) -> list[dict[str, float]]:
    """What each of some processes of the program found."""
    environment = os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)],
            env=environment | {"RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    try:
        found = [json.loads(process.communicate(timeout=240)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(found[0]) >= 6
    return found


@needs_triton
def test_the_kernels_make_the_steps_of_foreach() -> None:
    (found,) = interpret(1)
    # of float16 weights a few round the other way
    wrong = {name: off for name, off in found.items() if not off <= (1e-4 if "float16" in name.split() else 1e-6)}
    assert not wrong


@needs_triton
def test_the_kernels_on_shards(tmp_path: Path) -> None:
    for found in interpret(2, tmp_path / "store"):
        assert not {name: off for name, off in found.items() if not off <= 1e-6}


def layer_and_group(kind: Any, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[dict[str, Any], Any]:
    p = torch.nn.Parameter(torch.randn(8, 6).to(dtype))
    p.grad = torch.randn(8, 6).to(dtype)
    optimizer = kind([p], lr=0.1, **settings)
    group = optimizer.param_groups[0]
    return group, optimizer._layers(group, optimizer._with_gradients(group))[0]


@pytest.mark.parametrize("kind", [LAMB, LARS])
def test_who_takes_the_kernels(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_cuda, "_triton_is_installed", lambda: True)
    assert not fused_cuda.fits(*layer_and_group(kind, fused=True)), "on the CPU"
    monkeypatch.setattr(fused_cuda, "DEVICES", {"cpu"})
    assert fused_cuda.fits(*layer_and_group(kind, fused=True))
    assert fused_cuda.fits(*layer_and_group(kind, torch.bfloat16, fused=True, master_weights=True))
    for settings in ({}, {"fused": False}, {"foreach": True}, {"fused": True, "blocks": 4}):
        assert not fused_cuda.fits(*layer_and_group(kind, **settings)), settings
    assert not fused_cuda.fits(*layer_and_group(LAMB, fused=True, variant="lans"))
    assert not fused_cuda.fits(*layer_and_group(kind, torch.float64, fused=True))
    group, layer = layer_and_group(kind, fused=True)
    layer.grad = layer.grad.t().contiguous().t()
    assert not fused_cuda.fits(group, layer), "another order in memory"
    monkeypatch.setattr(fused_cuda, "_triton_is_installed", lambda: False)
    assert not fused_cuda.fits(*layer_and_group(kind, fused=True))


def test_every_element_is_in_one_chunk() -> None:
    """Also of layers that 32 bits cannot count."""
    elements = [3, 0, 2**31 + 9, ROUND, ROUND + 8, 10**9, 768 * 3072]
    aligned = [n % 8 == 0 for n in elements]
    plan = cuda_plan._plan(elements, aligned, 12, torch.device("cpu"))
    assert plan.ends[-1] == len(plan.layer_of) == len(plan.squares) == plan.sizes[:, 3].sum()
    for layer, (n, length, first, count) in enumerate(plan.sizes.tolist()):
        assert n == elements[layer]
        assert length % ROUND == 0
        assert count <= MOST
        assert count * length >= n > (count - 1) * length or n == count == 0
        assert (plan.layer_of[first : first + count] == layer).all()
    assert plan.ends == sorted(plan.ends)
    for start, end, kind in zip([0, *plan.ends], plan.ends, plan.aligned, strict=False):
        there = set(plan.layer_of[start:end].tolist())
        assert all(aligned[layer] == kind for layer in there)
        assert len(there) == 1 or sum(elements[layer] for layer in there) * 12 <= 0.6 * 50e6
