"""LAMB in the Hugging Face Trainer, through optimizers=(optimizer, scheduler): python examples/lamb_trainer.py"""

import tempfile
from functools import partial

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from overnight.optim import LAMB
from overnight.optim.groups import param_groups
from overnight.schedule import apply, linear

STEPS = 60


def made_up(size: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sixteen tokens each; the class is that of the first."""
    tokens = torch.randint(1, 4, (size, 16), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": (row[0] > 2).long()} for row in tokens]


def main() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    global_batch_size, grad_accum_steps = 128, 2
    optimizer = LAMB(param_groups(model, weight_decay=0.01), lr=0.02)
    total_samples = STEPS * global_batch_size
    curve = partial(linear, warmup_samples=0.1 * total_samples)
    scheduler = apply(optimizer, curve, global_batch_size=global_batch_size, total_samples=total_samples)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=global_batch_size // grad_accum_steps,
            gradient_accumulation_steps=grad_accum_steps,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model, settings, train_dataset=made_up(8192, seed=1), optimizers=(optimizer, scheduler))
        trainer.train()
        found = trainer.predict(made_up(1024, seed=2))
    print(f"{scheduler.last_epoch} updates: accuracy {(found.predictions.argmax(1) == found.label_ids).mean():.2%}")


if __name__ == "__main__":
    main()
