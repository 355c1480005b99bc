"""What a recipe gives the trainer for looking at its model: held-out records, samples, baselines."""

from typing import Any

import torch
from torch import nn

from overnight.data.corpus import ByteStream, Corpus
from overnight.evaluate.baselines import baselines
from overnight.evaluate.generate import generate
from overnight.evaluate.heldout import evaluate_heldout


def heldout_record(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "valid",
    eval_bytes: int = 250_000,
    final_bytes: int = 5_000_000,
    lanes: int = 64,
    length: int | None = None,
    reset: str = "shard",
) -> dict[str, Any]:
    """Bits per byte of the head of a split, as a line of eval.jsonl.

    Args:
        model, autocast_dtype: the trainer's.
        final: the last evaluation of the run, on ``final_bytes`` instead of ``eval_bytes``.
        corpus, split: what is held out.
        eval_bytes, final_bytes: how much of it.
        lanes, length, reset: how it is read (see ``evaluate_heldout``).
    """
    stream = _head(corpus, split, final_bytes if final else eval_bytes)
    found = evaluate_heldout(model, stream, lanes=lanes, length=length, reset=reset, autocast=autocast_dtype)
    return {
        "split": split,
        "bits_per_byte": found.bits_per_byte,
        "low": found.low,
        "high": found.high,
        "bytes": found.bytes,
    }


def heldout_baselines(*, corpus: str, split: str = "valid", final_bytes: int = 5_000_000) -> list[dict[str, Any]]:
    """What simple compressors make of the bytes of the final evaluation."""
    return [
        {"name": item.name, "bits_per_byte": item.bits_per_byte}
        for item in baselines(_head(corpus, split, final_bytes))
    ]


def sample_text(
    *, model: nn.Module, prompt: str = "\n", length: int = 400, temperature: float = 0.7, seed: int = 0
) -> dict[str, Any]:
    """A sampled continuation, as a line of samples.jsonl."""
    steps = generate(model, [prompt.encode()], length, temperature=temperature, seed=seed)
    text = b"".join(step[0] for step in steps).decode("utf-8", errors="replace")
    return {"prompt": prompt, "text": text, "temperature": temperature}


def _head(corpus: str, split: str, size: int) -> ByteStream:
    return Corpus(corpus).split(split).head(size)
