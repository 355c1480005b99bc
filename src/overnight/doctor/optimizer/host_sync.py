"""A step on a GPU that the host does not wait for."""

import torch

from overnight.doctor.optimizer.outcome import Check, Outcome
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, generator, of_norm

UNMEASURED = "on CUDA only, and there is none here"


def host_sync(subject: Subject) -> Outcome:
    """As built, and with ``capturable`` where there is such an argument."""
    if not torch.cuda.is_available():
        return Outcome("not applicable", UNMEASURED)
    draws = generator()
    ways = {"as built": {}, **({"capturable": {"capturable": True}} if subject.takes("capturable") else {})}
    waits = []
    for name, settings in ways.items():
        weights = [of_norm(4.5, draws).cuda() for _ in range(3)]
        gradients = [of_norm(3.0, draws).cuda() for _ in weights]
        trial = Trial(subject, weights, 0.01, **settings)
        trial.step(gradients)  # state is made here
        torch.cuda.synchronize()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            trial.step(gradients)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            waits.append(name)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    if waits:
        return Outcome("fail", f"the host waits for the GPU ({', '.join(waits)})")
    return Outcome("pass", f"no synchronising operation ({', '.join(ways)})")


HOST_SYNC = Check(
    "host sync",
    dict.fromkeys(("lamb", "lars"), 'a step passes torch.cuda.set_sync_debug_mode("error")'),
    host_sync,
)
