"""Row blocks with ratios of their own, such as the gates of an LSTM."""

import torch

from overnight.doctor.optimizer.length import judge, length
from overnight.doctor.optimizer.outcome import Check, Outcome
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, generator, of_norm

NORMS = (0.5, 2.0, 8.0, 32.0)


def blocks(subject: Subject) -> Outcome:
    """The first step of one tensor made of four that differ."""
    if not subject.takes("blocks"):
        return Outcome("not applicable", "it has no argument blocks")
    draws = generator()
    parts = [of_norm(norm, draws) for norm in NORMS]
    gradients = [of_norm(3.0, draws) for _ in parts]
    trial = Trial(subject, [torch.cat(parts)], 0.01, blocks=len(parts))
    updates = trial.update([torch.cat(gradients)])[0].chunk(len(parts))
    return judge(
        {
            norm: [update.norm().item() / length(subject, trial.optimizer, w, g, trial.lr, 0.01, 1)]
            for norm, w, g, update in zip(NORMS, parts, gradients, updates, strict=True)
        }
    )


BLOCKS = Check(
    "blocks",
    dict.fromkeys(("lamb", "lars"), "with blocks=4 each quarter of the rows has the length of a tensor of its own"),
    blocks,
)
