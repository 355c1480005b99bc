"""Accuracy of a classifier of texts on those that it was not trained on."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from overnight.data.masked.labelled import text_batches
from overnight.evaluate.images import wilson_interval

CALL_TEXTS = 32
"""Texts of one call of the model."""


@torch.no_grad()
def heldout_texts(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    tokenizer_of: str,
    split: str = "test",
    dev: str | None = None,
    test: str | None = None,
    length: int = 128,
) -> dict[str, Any]:
    """Accuracy on a split, each text once, as a line of eval.jsonl; the last evaluation of a run is like the others.

    Args:
        model, autocast_dtype, final: the trainer's.
        corpus, tokenizer_of, split, dev, test, length: what is held out (see ``text_batches``).
    """
    batches = text_batches(
        corpus=corpus, tokenizer_of=tokenizer_of, lanes=1, seed=0, split=split, dev=dev, test=test, length=length
    )
    device, right, nats = next(model.parameters()).device, 0, 0.0
    training = model.training
    model.eval()
    try:
        for first in range(0, len(batches), CALL_TEXTS):
            batch = batches.take(range(first, min(first + CALL_TEXTS, len(batches)))).to(device)
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits_BC = model(batch)
            logits_BC = logits_BC.double()
            right += int((logits_BC.argmax(1) == batch.label_B).sum())
            nats += float(F.cross_entropy(logits_BC, batch.label_B, reduction="sum"))
    finally:
        model.train(training)
    low, high = wilson_interval(right, len(batches))
    said = {"split": split, "text_accuracy": right / len(batches), "low": low, "high": high}
    return said | {"loss": nats / len(batches), "texts": len(batches)}
