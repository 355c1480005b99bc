"""torchrun on every host of a network, by the command that a user would type there."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from multihost.network import PORT, Host, Network

ENVIRONMENT = {"GLOO_SOCKET_IFNAME": PORT, "OMP_NUM_THREADS": "1"}
"""Without the first, gloo takes the address that the host's name has, which may be that of another network or none."""
SECONDS = 150.0
"""For anything to happen, on a machine that is busy with much else."""


class Torchrun:
    """``torchrun --nnodes N --node-rank I --master-addr A … -m overnight ARGV`` on all hosts.

    Args:
        network: the hosts; the first is the master.
        argv: of ``overnight``, the same everywhere.
        logs: a folder for what each host prints.
        options: further ones of torchrun.

    Attributes:
        still_at_work: hosts that a test expects to be.
    """

    def __init__(self, network: Network, argv: Sequence[str], logs: Path, *options: str) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.hosts, self.argv, self.options = network.hosts, argv, options
        self.logs = [logs / f"{time.monotonic_ns()}-{index}.txt" for index in range(len(self.hosts))]
        self.running = [self._start(index) for index in range(len(self.hosts))]
        self.still_at_work = set(range(len(self.hosts)))

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        words = ["--nnodes", str(len(self.hosts)), "--node-rank", str(index)]
        words += ["--master-addr", self.hosts[0].address, "--master-port", "29500", "--nproc-per-node", "1"]
        words += ["--monitor-interval", "0.1", *self.options, "-m", "overnight", *self.argv]
        log = self.logs[index]
        return self.hosts[index].start([sys.executable, "-m", "torch.distributed.run", *words], log, ENVIRONMENT)

    def kill(self, index: int) -> None:
        """Everything on a host."""
        self.hosts[index].kill()
        self.running[index].wait(20)

    def start_again(self, index: int) -> None:
        """The same command on a host."""
        self.running[index] = self._start(index)

    def until(self, found: Callable[[], bool]) -> None:
        """Wait for something to come true while all hosts of ``still_at_work`` are."""
        end = time.monotonic() + SECONDS
        while not found():
            codes = [self.running[index].poll() for index in self.still_at_work]
            if any(code is not None for code in codes) or time.monotonic() > end:
                raise AssertionError(f"waited in vain, {codes}:\n{self.output()}")
            time.sleep(0.005)

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Exit codes of all hosts."""
        end = time.monotonic() + seconds
        codes = []
        for process in self.running:
            try:
                codes.append(process.wait(max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"went on for {seconds} s:\n{self.output()}") from None
        return codes

    def output(self, index: int | None = None) -> str:
        """What a host printed, or all."""
        chosen = self.logs if index is None else [self.logs[index]]
        return "\n".join(log.read_text(errors="replace") for log in chosen)


def command(host: Host, words: Sequence[str], log: Path, seconds: float = SECONDS, **env: str) -> tuple[int, str]:
    """Run a command on a host to its end; its exit code, and what it printed."""
    process = host.start(words, log, ENVIRONMENT | env)
    return process.wait(seconds), log.read_text(errors="replace")
