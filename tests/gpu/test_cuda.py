"""The main job on a CUDA device: `python -m pytest tests/gpu`."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from overnight.cli import main
from overnight.evaluate.generate import generate
from overnight.models.byte_lm import ByteLM
from overnight.recipes.byte_lm import byte_lm
from overnight.train.launch import Options, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_the_fast_path_is_the_readable_one(dtype: torch.dtype, tolerance: float) -> None:
    """tolerance: relative to the largest value; TF32 is off, bf16 rounds each activation to 8 bits."""
    gradients = []
    for path in ("readable", "fast"):
        torch.manual_seed(0)
        model = ByteLM(hidden_size=101, path=path).cuda()
        ids = torch.randint(0, 256, (63, 7), device="cuda")
        reset = torch.rand(63, 7, device="cuda") < 0.1
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            logits, _ = model(ids, None, reset)
        logits.float().square().mean().backward()
        gradients.append([logits.detach().float()] + [p.grad for p in model.parameters() if p.grad is not None])
    for readable, fast in zip(*gradients, strict=True):
        assert (readable - fast).abs().max() <= tolerance * readable.abs().max()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_train_resume_evaluate_generate(tmp_path: Path, corpus: Path, precision: str) -> None:
    out = tmp_path / "run"
    run = byte_lm(corpus, batch_size=4, length=8, steps=6, evaluations=2, precision=precision).with_setting(
        "model.hidden_size=32"
    )
    summary = train(run, out, Options(quiet=True, device="cuda"))
    assert summary["state"] == "finished"
    assert summary["final"]["bits_per_byte"] < 9
    longer = run.with_setting("steps=12")
    assert train(longer, out, Options(quiet=True, device="cuda", resume=True))["step"] == 12
    steps = [json.loads(line)["step"] for line in (out / "eval.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert main(["evaluate", str(out), "--device", "cuda"]) == 0


def test_generation_on_the_device() -> None:
    model = ByteLM(hidden_size=32).cuda()
    draw = partial(generate, model, [b"one", b""], 5, seed=1)
    assert list(draw()) == list(draw())
