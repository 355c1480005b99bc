"""The published ladders: one tuned row, the rule, and every other row of the table."""

import pytest

from overnight.scaling import Hyperparameters, rules

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("batch", "log2_lr", "warmup_epochs"),
    [
        (512, 2.0, 10 / 2**6),
        (1024, 2.5, 10 / 2**5),
        (4096, 3.5, 10 / 2**3),
        (8192, 4.0, 10 / 2**2),
        (16_384, 4.5, 5.0),
        (32_768, 5.0, 10.0),  # the one row that deviates from the rule: it was run with 14
    ],
)
def test_legw_on_resnet_50(batch: int, log2_lr: float, warmup_epochs: float) -> None:
    """LEGW with LARS, 90 epochs, by the authors of LEGW: from the row at 512 to all others."""
    first = Hyperparameters(
        lr=4.0, global_batch_size=512, warmup_samples=10 / 2**6 * IMAGENET, total_samples=90 * IMAGENET
    )
    scaled = rules.legw(first, global_batch_size=batch).hyperparameters
    assert scaled.lr == pytest.approx(2**log2_lr)
    assert scaled.warmup_samples / IMAGENET == pytest.approx(warmup_epochs)
    assert scaled.warmup_steps == 391
    assert scaled.total_samples == 90 * IMAGENET


@pytest.mark.parametrize(
    ("batch", "halvings", "warmup_ratio"),
    [
        (512, 3.0, 1 / 320),
        (1024, 2.5, 1 / 160),
        (2048, 2.0, 1 / 80),
        (4096, 1.5, 1 / 40),
        (8192, 1.0, 1 / 20),
        (16_384, 0.5, 1 / 10),
        (32_768, 0.0, 1 / 5),
    ],
)
def test_lamb_on_bert_without_tuning_is_legw(batch: int, halvings: float, warmup_ratio: float) -> None:
    """LAMB's untuned ladder: 5e-3 / 2^{3 … 0}, and 3125 warm-up steps whatever the batch."""
    first = Hyperparameters(
        lr=5e-3 / 2**3, global_batch_size=512, warmup_samples=3125 * 512, total_samples=512 * 1_000_000
    )
    scaled = rules.legw(first, global_batch_size=batch).hyperparameters
    assert scaled.lr == pytest.approx(5e-3 / 2**halvings)
    assert scaled.warmup_steps == 3125
    assert scaled.total_samples is not None
    assert scaled.warmup_samples / scaled.total_samples == pytest.approx(warmup_ratio)


@pytest.mark.parametrize(("batch", "halvings", "epochs"), [(512, 3, 0.3125), (4096, 1.5, 2.5), (32_768, 0, 20)])
def test_lamb_on_resnet_50_without_tuning_is_legw(batch: int, halvings: float, epochs: float) -> None:
    """The same with 4 / (2^{3 … 0} · 100), and 782 steps at 32K."""
    first = Hyperparameters(lr=0.04 / 2**3, global_batch_size=512, warmup_samples=0.3125 * IMAGENET)
    scaled = rules.legw(first, global_batch_size=batch).hyperparameters
    assert scaled.lr == pytest.approx(0.04 / 2**halvings)
    assert scaled.warmup_samples == pytest.approx(epochs * IMAGENET)
    assert scaled.warmup_steps == 782


@pytest.mark.parametrize(("batch", "lr"), [(3072, 2.875e-3), (8192, 4e-3), (12_288, 4.5e-3), (16_384, 5e-3)])
def test_what_was_tuned_for_gnmt_is_near_sqrt(batch: int, lr: float) -> None:
    """Rates that NVIDIA tuned for GNMT with Adam, from 2e-3 at 2048: the rule is within 15 % of each."""
    ruled = rules.sqrt(Hyperparameters(lr=2e-3, global_batch_size=2048), global_batch_size=batch).hyperparameters.lr
    assert ruled == pytest.approx(lr, rel=0.15)
