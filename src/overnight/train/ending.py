"""The end of a run, whichever it is: the final evaluation and summary.json."""

import signal
from contextlib import suppress
from typing import Any

import torch

from overnight.comm.checks import first_line, lost
from overnight.errors import UserError
from overnight.train.console import ConsoleSink
from overnight.train.folder import write_json
from overnight.train.host import StoppedError
from overnight.train.loop import Loop
from overnight.train.record import finite


def run_to_end(loop: Loop) -> dict[str, Any]:
    """Run the loop, and return what ``summary.json`` says: also where it fails, what was saved and why.

    Raises:
        UserError: as the loop does.
    """
    try:
        ended = _in_words(loop)
    except UserError as error:
        with suppress(UserError):  # the disk may be full
            _write_summary(loop, "failed", error.problem)
        raise
    if ended == "stopped":
        return loop.world.together(lambda: _write_summary(loop, "stopped", _stopped(loop, "; saved")))
    try:
        return _sum_up(loop)
    except StoppedError:
        return _write_summary(loop, "stopped", _stopped(loop, " in the final evaluation; the model is saved"))


def _in_words(loop: Loop) -> str:
    try:
        return loop()
    except RuntimeError as error:
        if lost(error):
            raise UserError(
                f"Rank {loop.world.rank} lost the others at step {loop.state.step + 1:,} ({first_line(error)}).",
                "Look for the rank that ended first, or for the network. To go on from the last checkpoint, start on "
                f"every host: overnight train {loop.folder} --resume",
            ) from error
        # torch's CPU allocator has no exception of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"Step {loop.state.step + 1:,} does not fit into the memory of {loop.world.device}.",
            f"Take a --micro-batch-size below {loop.plan.micro_batch_size} (the result stays the same).",
        ) from error


def _signal(loop: Loop) -> str:
    return (loop.stopped_by or loop.stop.signal or signal.SIGTERM).name


def _stopped(loop: Loop, what: str) -> str:
    return f"Stopped by {_signal(loop)} at step {loop.state.step:,}{what}."


def _sum_up(loop: Loop) -> dict[str, Any]:
    """The final evaluation, on rank 0; the others may leave."""
    run = loop.run
    final: dict[str, Any] | None = None
    baselines: list[dict[str, Any]] = []
    chosen = loop.for_evaluation() if run.evaluate is not None and run.evaluations else None
    if loop.world.is_main and run.evaluate is not None and chosen is not None:
        for sink in loop.sinks:
            if isinstance(sink, ConsoleSink):
                sink.say("the last evaluation, in full …")
        with loop.stop.at_once(), chosen() as model:
            found = run.evaluate(model=model, autocast_dtype=loop.stepper.precision.dtype, final=True)
            baselines = run.baselines() if run.baselines is not None else []
        final = {"step": loop.state.step} | found
    return _write_summary(loop, "finished", "The budget is used up.", final, baselines)


def _write_summary(
    loop: Loop,
    ended: str,
    reason: str,
    final: dict[str, Any] | None = None,
    baselines: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    state = loop.state
    summary: dict[str, Any] = finite(
        {
            "state": ended,
            "reason": reason,
            "signal": _signal(loop) if ended == "stopped" else None,
            "step": state.step,
            "samples": state.step * loop.run.global_batch_size,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "skipped": state.skipped,
            "best": state.best,
            "final": final,
            "baselines": baselines or [],
        }
    )
    if loop.world.is_main:
        write_json(loop.folder / "summary.json", summary)
    return summary
