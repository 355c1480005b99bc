"""BERT's sizes and baselines, by name. Which of them were run, and how, stands in docs/results.md."""

import math
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Rates:
    """What an optimizer was given at the baseline's batch.

    Attributes:
        lr: peak.
        warmup_steps: of the whole run; phase 2 has its share of them.
    """

    lr: float
    warmup_steps: int


@dataclass(frozen=True)
class BERTPreset:
    """One size, and the baseline that every other batch is derived from.

    Attributes:
        about: what it is for.
        hidden_size, layers, heads: of the model.
        batch: of the baseline, in sequences.
        sequences: of both phases together, whatever the batch.
        lamb, adamw: the optimizers' baselines.
        batches: of phase 1 and 2, unless one is given.
        steps: of phase 1 and 2 at these batches, where they do not follow from ``sequences``.
    """

    about: str
    hidden_size: int
    layers: int
    heads: int
    batch: int
    sequences: int
    lamb: Rates
    adamw: Rates
    batches: tuple[int, int]
    steps: tuple[int, int] | None = None


PHASE_1 = 0.9
"""Share of the sequences that are short."""
LENGTHS = (128, 512)
"""Word pieces of a sequence, by phase."""
MAX_POSITION = 512

# You et al. 2020: 5e-3 / 2^3 at batch 512, 3,125 steps of warm-up, a million steps; the square root of the batch from
# there. Phase 1 in batches of 64K and phase 2 of 32K: 7,037 + 1,562 steps, 76 minutes on 1,024 TPU v3.
PAPER = partial(
    BERTPreset,
    batch=512,
    sequences=512_000_000,
    lamb=Rates(5e-3 / 2**3.0, 3125),
    adamw=Rates(1e-4, 10_000),  # Devlin et al. 2019 at batch 256, whose other settings LAMB's baseline shares
    batches=(65_536, 32_768),
    steps=(7037, 1562),
)
SMALL = partial(BERTPreset, batch=32, batches=(32, 16))

PRESETS = {
    "tiny": SMALL(
        "some minutes on one core", 128, 2, 2,
        sequences=48_000, lamb=Rates(1e-2, 100), adamw=Rates(2e-3, 100),
    ),
    "mini": SMALL(
        "an hour on one core", 256, 4, 4,
        sequences=96_000, lamb=Rates(7e-3, 200), adamw=Rates(1e-3, 200),
    ),
    "small": SMALL(
        "hours on a GPU", 512, 4, 8,
        sequences=3_200_000, lamb=Rates(4e-3, 1000), adamw=Rates(5e-4, 1000),
    ),
    "medium": SMALL(
        "a night on a GPU", 512, 8, 8,
        sequences=12_800_000, lamb=Rates(3e-3, 2000), adamw=Rates(3e-4, 2000),
    ),
    "base": PAPER("110 million parameters, the paper's ladder", 768, 12, 12),
    "large": PAPER("the paper's BERT-Large: 8,599 steps of 64K, then 32K", 1024, 24, 16),
}  # fmt: skip


def phase_steps(preset: BERTPreset, phase: int, batch: int) -> int:
    """Steps of a phase, so that both phases read the preset's sequences; at the preset's batches as published.

    >>> [phase_steps(PRESETS["large"], phase, 32_768) for phase in (1, 2)]
    [14063, 1562]
    >>> phase_steps(PRESETS["large"], 1, 65_536)
    7037
    """
    if preset.steps is not None and batch == preset.batches[phase - 1]:
        return preset.steps[phase - 1]
    total = preset.sequences // batch
    first = math.ceil(total * PHASE_1)
    return max(1, first if phase == 1 else total - first)
