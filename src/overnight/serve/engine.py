"""The one thread that runs the model: it takes lanes from all requests in turn and steps them together."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from overnight.serve.lanes import Batch, Lane
from overnight.serve.limits import Limits
from overnight.serve.refusal import RefusalError, busy, too_long


@dataclass(eq=False)
class Job:
    """The lanes of one request.

    Args:
        lanes: what makes each of them, called when there is room for it; at least one.
        finished: called once, from the engine's thread: with None when all lanes are done, else with why they are not.
        stream: whether it counts as a stream of text.
        held_bytes: of memory that each of its lanes holds.
    """

    lanes: Sequence[Callable[[], Lane]]
    finished: Callable[[Exception | None], None]
    stream: bool = False
    held_bytes: int = 0
    cancelled: bool = field(default=False, init=False)
    deadline: float = field(default=0.0, init=False)
    begun: float | None = field(default=None, init=False)
    made: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    def cancel(self) -> None:
        """Nobody waits for it any more: its lanes leave at the next step. From any thread."""
        self.cancelled = True


class Engine:
    """A batch, its thread, and the requests that wait for it.

    Args:
        batch: without lanes.
        limits: how much at once, and how long.

    Attributes:
        steps: taken so far.
        lane_steps: bytes read so far, over all lanes.
    """

    def __init__(self, batch: Batch, limits: Limits) -> None:
        self._batch, self._limits = batch, limits
        self._changed = threading.Condition()
        self._jobs: set[Job] = set()
        self._waiting: deque[Job] = deque()  # those with lanes still to be made
        self._owners: list[Job] = []  # of the batch's lanes, in its order
        self._closing = False
        self.steps = self.lane_steps = 0
        self._step_seconds: float | None = None  # running average
        self._thread = threading.Thread(target=self._run, name="overnight-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job in; its ``finished`` will be called. From any thread.

        Raises:
            RefusalError: 503 when too many requests are in work or waiting or the server closes, 429 for too many
                streams.
        """
        job.deadline = time.monotonic() + self._limits.seconds
        with self._changed:
            if self._closing:
                raise busy("The server is closing.")
            if len(self._jobs) >= self._limits.requests:
                raise busy(f"{self._limits.requests} requests are in work or waiting already.")
            if job.stream and sum(other.stream for other in self._jobs) >= self._limits.streams:
                raise busy(f"{self._limits.streams} texts are being written already.", 429)
            self._jobs.add(job)
            self._waiting.append(job)
            self._changed.notify()

    def load(self) -> dict[str, int]:
        """How many requests are in work or waiting, and how many lanes are stepping."""
        with self._changed:
            return {"requests": len(self._jobs), "lanes": len(self._owners)}

    def close(self) -> None:
        """Refuse what is waiting or in work, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    break
            try:
                self._turn()
            except Exception as error:  # a step that fails ends the requests in work, and not the server
                self._end(error, waiting=False)
        self._end(busy("The server is closing."), waiting=True)

    def _turn(self) -> None:
        self._drop()
        leave = [index for index, job in enumerate(self._owners) if job not in self._jobs]
        owners = [job for job in self._owners if job in self._jobs]
        come, new = self._admit(owners)
        self._batch.change(leave, come)
        self._owners = owners + new
        if not self._owners:
            return
        self.steps += 1
        self.lane_steps += len(self._owners)
        begun = time.monotonic()
        done = self._batch.step()
        took, before = time.monotonic() - begun, self._step_seconds
        self._step_seconds = took if before is None else before + (took - before) / 16
        self._batch.change(done, ())
        for index, error in done.items():
            job = self._owners[index]
            job.done += 1
            if error is not None or job.done == len(job.lanes):
                self._finish(job, error)
        self._owners = [job for index, job in enumerate(self._owners) if index not in done]

    def _drop(self) -> None:
        """Let go what nobody waits for and what takes too long."""
        with self._changed:
            jobs, now = list(self._jobs), time.monotonic()
        for job in jobs:
            if job.cancelled:
                self._finish(job, RefusalError(499, "gone", "The client went away."))
            elif now > job.deadline:
                self._finish(job, self._late(job))

    def _late(self, job: Job) -> RefusalError:
        # What had to wait for most of its time for a place is not too long by itself.
        if self._step_seconds is None or job.begun is None or job.deadline - job.begun < self._limits.seconds / 2:
            return busy(f"The answer was not complete after {self._limits.seconds:g} seconds: others were before it.")
        return too_long(self._limits.seconds, self._step_seconds)

    def _admit(self, owners: Sequence[Job]) -> tuple[list[Lane], list[Job]]:
        """One lane of each request in turn, so that one of many texts does not keep the others waiting."""
        come: list[Lane] = []
        new: list[Job] = []
        held = sum(job.held_bytes for job in owners)
        passed = 0
        while len(owners) + len(new) < self._limits.lanes:
            with self._changed:
                if passed >= len(self._waiting):
                    break
                job = self._waiting.popleft()
            if job not in self._jobs:
                continue
            if held and job.held_bytes and held + job.held_bytes > self._limits.history_bytes:
                self._waiting.append(job)
                passed += 1
                continue
            try:
                come.append(job.lanes[job.made]())
            except Exception as error:
                self._finish(job, error)
                continue
            new.append(job)
            job.begun = job.begun or time.monotonic()
            held += job.held_bytes
            job.made += 1
            passed = 0
            if job.made < len(job.lanes):
                self._waiting.append(job)
        return come, new

    def _finish(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            if job not in self._jobs:
                return
            self._jobs.remove(job)
        job.finished(error)

    def _end(self, error: Exception, waiting: bool) -> None:
        """End what is in work, and what waits too if asked."""
        with self._changed:
            jobs = [job for job in self._jobs if job.made or waiting]
        for job in jobs:
            self._finish(job, error)
        self._batch.change(range(len(self._batch.lanes)), ())
        self._owners = []
