"""Workers around a parameter server on a host of its own, as in the paper's baseline, in the benchmark's own loop."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from benchmarks.parallel.jobs import Job
from benchmarks.parallel.modes import optimizer, samples_words
from overnight.comm.asynchronous import AsyncWorker, ParameterServer, asynchronous

PORT = 29600


class AsyncTrainer:
    """One worker's model and place in the data; rank 0 is the server, and does not train.

    Args:
        mode: ``async``, with dense gradients as in the paper's baseline, or ``async-sampled``.
        job: what is trained.
        rank: 0 for the server.
        workers: how many there are.
        seed: of the drawn rows.
        timeout_seconds: after which server and worker give each other up.
        served: the same job once more, for a server of this worker's own in the same process; None for one that all
            have on rank 0.

    Attributes:
        server: on rank 0.
        worker: on the others.
    """

    def __init__(
        self,
        mode: str,
        job: Job,
        rank: int,
        workers: int,
        seed: int,
        timeout_seconds: float,
        served: Job | None = None,
    ) -> None:
        self.job, self.step = job, 0
        sparse = samples_words(mode)
        rows: dict[str, Any] = {"dense": True}
        if sparse:
            rows = {"rows": ["model.output.*"], "random": job.random, "frequent": job.frequent}
        plan = asynchronous(**rows, seed=seed).plan
        self.carry: Mapping[str, Tensor] = job.task.initial_carry(job.batches(0).input_TB.shape[1])  # type: ignore[operator]
        self.server: ParameterServer | None = None
        self.worker: AsyncWorker | None = None
        host = os.environ["MASTER_ADDR"]
        if served is not None:
            server = ParameterServer(
                served.task,
                optimizer(served, sparse),
                plan=plan,
                max_norm=job.max_norm,
                timeout_seconds=timeout_seconds,
            )
            self.server, self.worker = server, AsyncWorker.attach(server, job.task)
        elif rank == 0:
            self.server = ParameterServer(
                job.task, optimizer(job, sparse), host=host, port=PORT, workers=workers, plan=plan,
                max_norm=job.max_norm, timeout_seconds=timeout_seconds,
            )  # fmt: skip
        else:
            self.worker = AsyncWorker.connect(
                host, PORT, job.task, rank=rank - 1, plan=plan, timeout_seconds=timeout_seconds
            )

    def rates(self, factor: Callable[[], float]) -> None:
        """The share of the peak rate, asked at every update; on rank 0."""
        server = self.server
        if server is None:
            return

        def set_rates(pushes: object) -> None:
            for group in server.update.optimizer.param_groups:
                group["lr"] = self.job.lr * factor()

        server.before_update = set_rates

    def __call__(self) -> float:
        """One step; its seconds."""
        assert self.worker is not None
        began = time.perf_counter()
        self.worker.pull()
        loss = self.job.task(self.job.batches(self.step), self.carry)
        (loss.total if loss.objective is None else loss.objective).div(loss.count).backward()
        self.worker.push(loss=float(loss.total), count=loss.count)
        self.carry = loss.carry
        self.step += 1
        return time.perf_counter() - began

    @property
    def pushes(self) -> int:
        """Of all workers; on rank 0."""
        return 0 if self.server is None else sum(self.server.counts.pushes.values())

    def staleness(self) -> dict[int, int]:
        """How many pushes had which, on rank 0."""
        return {} if self.server is None else self.server.staleness.histogram()

    def close(self) -> None:
        """The workers leave, then the server ends."""
        if self.worker is not None:
            self.worker.close()
        if self.server is not None:
            self.server.close()
