"""How fast a model reads here, and what requests may ask for so that an answer comes in time."""

import time
from dataclasses import replace

from overnight.models.byte_lm import ByteLM
from overnight.serve.lanes import Batch
from overnight.serve.limits import Limits
from overnight.serve.readings import Reading

_LEAST = 16
"""Characters or bytes that may always be asked for, however slow the model is."""


def step_seconds(model: ByteLM, lanes: int, steps: int = 4) -> float:
    """The time of one step of a batch, the shortest of some.

    Args:
        model: in evaluation mode.
        lanes: of the batch.
        steps: that are timed, after one that is not.
    """
    batch = Batch(model)
    batch.change((), [Reading(bytes(steps + 2)) for _ in range(lanes)])
    batch.step()
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        batch.step()
        times.append(time.perf_counter() - begun)
    return min(times)


def fitted(limits: Limits, one_seconds: float, full_seconds: float) -> Limits:
    """The limits, lowered where a request alone at the server could not be answered in ``limits.seconds``.

    Half of the time is left for other requests, and for characters of several bytes.

    Args:
        limits: to lower.
        one_seconds: of a step of one lane.
        full_seconds: of a step of ``limits.lanes`` lanes.

    >>> fitted(Limits(seconds=60), 0.01, 0.02).text_chars
    3000
    >>> fitted(Limits(seconds=60), 1e-4, 1e-3) == Limits(seconds=60)
    True
    """
    text = int(limits.seconds / one_seconds / 2)
    total = int(limits.seconds / full_seconds / 2) * limits.lanes

    def at_most(limit: int, found: int) -> int:
        return min(limit, max(_LEAST, found))

    return replace(
        limits,
        text_chars=at_most(limits.text_chars, text),
        total_chars=at_most(limits.total_chars, total),
        trace_chars=at_most(limits.trace_chars, text),
        prompt_chars=at_most(limits.prompt_chars, text // 2),
        generate_bytes=at_most(limits.generate_bytes, text // 2),
    )
