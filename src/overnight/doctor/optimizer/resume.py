"""Training that is saved, loaded and continued is the training that was not interrupted."""

import io
from typing import Any

import torch

from overnight.doctor.optimizer.kept import same
from overnight.doctor.optimizer.outcome import Check, Outcome
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, difference, generator, of_norm

STEPS = 5  # before, and after


def resume_float32(subject: Subject) -> Outcome:
    """Of float32 parameters."""
    return _resume(subject, torch.float32, {})


def resume_bfloat16(subject: Subject) -> Outcome:
    """Of bfloat16 parameters, whose float32 state torch rounds when it is loaded; with master weights if there are."""
    found = _resume(subject, torch.bfloat16, {})
    if found.status == "pass" and subject.takes("master_weights"):
        return _resume(subject, torch.bfloat16, {"master_weights": True}, ", with master weights too")
    return found


def _resume(subject: Subject, dtype: torch.dtype, settings: dict[str, Any], words: str = "") -> Outcome:
    draws = generator()
    weights = [of_norm(4.5, draws).to(dtype), of_norm(4.5, draws, (5, 7)).to(dtype)]
    gradients = [[of_norm(3.0, draws, tuple(w.shape)) for w in weights] for _ in range(2 * STEPS)]
    whole = Trial(subject, weights, 0.01, **settings)
    for given in gradients[:STEPS]:
        whole.step(given)
    file = io.BytesIO()
    torch.save(whole.optimizer.state_dict(), file)
    file.seek(0)
    resumed = Trial(subject, [p.detach().clone() for p in whole.parameters], 0.01, **settings)
    resumed.optimizer.load_state_dict(torch.load(file, weights_only=False))
    for given in gradients[STEPS:]:
        whole.step(given)
        resumed.step(given)
    ends = [[p.detach() for p in trial.parameters] for trial in (whole, resumed)]
    if not same(*ends):
        error = difference(*[[w.double() for w in end] for end in reversed(ends)])
        return Outcome("fail", f"weights differ by {error:.1e} of their norm after {STEPS} more steps", error)
    if not same(whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]):
        return Outcome("fail", f"weights are the same but the state differs after {STEPS} more steps")
    return Outcome("pass", f"bit for bit{words}")


RULE = "after torch.save and torch.load of the state, training goes on bit for bit"
RESUME = Check("resume", dict.fromkeys(("lamb", "lars"), RULE), resume_float32)
RESUME_BF16 = Check("resume bf16", dict.fromkeys(("lamb", "lars"), f"{RULE}, bfloat16 parameters"), resume_bfloat16)
