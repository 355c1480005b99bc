"""LAMB and LARS in the Hugging Face Trainer, through ``optimizers=(optimizer, scheduler)``."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops.toy import BATCH, OPTIMIZERS, STEPS, batches, classifier, plain_loop, schedule, weights
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

pytest.importorskip("transformers", reason="transformers is not installed (the extra loops)")
pytest.importorskip("accelerate", reason="accelerate is not installed (the extra loops)")
from transformers import Trainer, TrainingArguments

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


class Classifier(nn.Module):
    """The loops' classifier, as the Trainer calls models."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = classifier(torch.float64)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def trainer(name: str, folder: Path, parts: int = 1) -> tuple[InOrder, Any]:
    model = Classifier()
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)
    data = [{"inputs": a, "labels": b} for x, y in batches(torch.float64) for a, b in zip(x, y, strict=True)]
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH // parts, use_cpu=True,
        gradient_accumulation_steps=parts, max_grad_norm=0.0, save_steps=3, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    return InOrder(model, settings, train_dataset=data, optimizers=(optimizer, scheduler)), scheduler


@each_optimizer
@pytest.mark.parametrize("parts", [1, 4])
def test_training_is_the_plain_loop(name: str, parts: int, tmp_path: Path) -> None:
    trained, scheduler = trainer(name, tmp_path, parts)
    trained.train()
    assert scheduler.last_epoch == STEPS
    torch.testing.assert_close(weights(trained.model), plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)


@each_optimizer
def test_a_resumed_run_is_the_whole_run(name: str, tmp_path: Path) -> None:
    trainer(name, tmp_path)[0].train()
    resumed, scheduler = trainer(name, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert scheduler.last_epoch == STEPS
    torch.testing.assert_close(weights(resumed.model), plain_loop(name, torch.float64), rtol=1e-12, atol=1e-13)
