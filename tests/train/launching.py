"""Starting, killing and comparing runs. Children are forked from a server that has imported torch: they cost little."""

import faulthandler
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from oracles.corpus import write_corpus

from overnight.recipes import find
from overnight.train.checkpoint import GROUPS, load_checkpoint
from overnight.train.run import Run

WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "it",
    "was",
    "night",
    "over",
    "model",
    "train",
    "byte",
    "carry",
    "lane",
    "rank",
)
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
SECONDS = {"seconds", "tokens_per_s", "total_samples", "computing_seconds", "waiting_seconds"}
"""What differs between two runs of the same thing."""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "overnight.cli.train",
        "overnight.cli.outcome",
        "overnight.evaluate.training",
        "overnight.report.page",
        "overnight.train.launch",
        "torch._dynamo",  # torch imports it at the first step of an optimizer
    ]
)


def make_corpus(folder: Path, shards: int = 3, documents: int = 12, words: int = 60) -> Path:
    """Three shards of twelve documents to train on, and a small held-out split."""
    draw = random.Random(0)

    def document() -> bytes:
        return (" ".join(draw.choice(WORDS) for _ in range(words)) + "\n").encode()

    train = [[document() for _ in range(documents)] for _ in range(shards)]
    return write_corpus(folder, train=train, valid=[[document() for _ in range(3)]])


def tiny(corpus: Path, **changes: Any) -> Run:
    """A run of a few milliseconds a step; ``changes`` are settings by name, ``model__hidden_size`` for those inside."""
    run: Run = find("byte-lm")(corpus, batch_size=4, length=8, steps=changes.pop("steps", 12), warmup_steps=4)
    for name, value in (_TINY | changes).items():
        run = run.with_setting(f"{name.replace('__', '.')}={value}")
    return run


_TINY: dict[str, Any] = {
    "model__hidden_size": 16,
    "model__embedding_size": 8,
    "precision": "fp32",
    "threads": 1,
    "log_every": 1,
    "evaluations": 2,
    "sample__length": 16,
}


def arguments(corpus: Path, out: Path, **changes: Any) -> list[str]:
    """The same run as words of a command line."""
    steps = changes.pop("steps", 12)
    words = ["train", "byte-lm", "--data", corpus, "--out", out, "--steps", steps]
    words += ["--batch-size", 4, "--length", 8, "--warmup-steps", 4]
    for name, value in (_TINY | changes).items():
        words += ["--set", f"{name.replace('__', '.')}={value}"]
    return [str(word) for word in words]


@dataclass
class Ranks:
    """The processes of one command.

    Attributes:
        children: one a rank.
        logs: what each printed.
    """

    children: list[Any]
    logs: list[Path]

    def wait(self, seconds: float = 120) -> list[int]:
        """Exit codes of all ranks; negative for a signal."""
        end = time.monotonic() + seconds
        for child in self.children:
            child.join(max(0.1, end - time.monotonic()))
        hung = [rank for rank, child in enumerate(self.children) if child.exitcode is None]
        self.kill()
        assert not hung, f"rank {hung} went on for {seconds} s:\n{self.output()}"
        return [child.exitcode for child in self.children]

    def until(self, found: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for something to come true while all ranks are at work."""
        end = time.monotonic() + seconds
        while not found():
            codes = [child.exitcode for child in self.children]
            if any(code is not None for code in codes) or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"waited in vain, {codes}:\n{self.output()}")
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL to all, as a machine that loses power."""
        for child in self.children:
            child.kill()
        for child in self.children:
            child.join()

    def signal(self, number: signal.Signals, rank: int = 0) -> None:
        os.kill(self.children[rank].pid, number)

    def output(self) -> str:
        return "\n".join(f"-- rank {i}\n{log.read_text(errors='replace')}" for i, log in enumerate(self.logs))


def start(
    argv: list[str],
    logs: Path,
    ranks: int = 1,
    die_at: tuple[Path, int] | None = None,
    env: dict[str, str] | None = None,
) -> Ranks:
    """Run ``overnight ARGV`` in as many processes as ranks.

    Args:
        argv: the command's words.
        logs: a folder for what they print.
        ranks: joined over gloo if there are several.
        die_at: (a folder, n): rank 0 kills itself before it opens, renames or removes a file there for the n-th time.
        env: further environment variables.
    """
    logs.mkdir(parents=True, exist_ok=True)
    everywhere = dict(env or {})
    if ranks > 1:
        meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        everywhere = meeting | LOOPBACK | everywhere
    started = Ranks([], [])
    for rank in range(ranks):
        log = logs / f"{time.monotonic_ns()}-{rank}.txt"
        log.touch()
        own = everywhere | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})
        child = SERVER.Process(target=_enter, args=(argv, own, log, die_at if rank == 0 else None), daemon=True)
        child.start()
        started.children.append(child)
        started.logs.append(log)
    return started


def overnight(argv: list[str], logs: Path, ranks: int = 1, **how: Any) -> str:
    """Run ``overnight ARGV`` to its end, which must be a good one; returns what it printed."""
    running = start(argv, logs, ranks, **how)
    codes = running.wait()
    assert codes == [0] * ranks, running.output()
    return running.output()


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def same_end(run: Path, other: Path) -> None:
    """Assert that two runs ended alike: every bit of the last checkpoint, and every record but for the clock."""
    ours, theirs = (sorted((folder / "checkpoints").glob("0*"))[-1] for folder in (run, other))
    assert ours.name == theirs.name
    one, two = load_checkpoint(ours), load_checkpoint(theirs)
    for group in GROUPS:
        mine, its = getattr(one, group), getattr(two, group)
        assert mine.keys() == its.keys()
        assert group in ("carry", "rng", "ema", "parallel") or mine
        for name, tensor in mine.items():
            assert tensor.dtype == its[name].dtype
            assert torch.equal(tensor, its[name]), f"{group} {name} differs"
    assert timeless(one.state) == timeless(two.state)
    for name in ("metrics", "eval", "samples"):
        assert [timeless(line) for line in lines(run / f"{name}.jsonl")] == [
            timeless(line) for line in lines(other / f"{name}.jsonl")
        ], name


def timeless(data: Any) -> Any:
    """Plain data without what depends on the clock."""
    if isinstance(data, dict):
        return {name: timeless(value) for name, value in data.items() if name not in SECONDS}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def _enter(argv: list[str], env: dict[str, str], log: Path, die_at: tuple[Path, int] | None) -> None:
    """In the child: the command line, with its output in a file."""
    from overnight.cli import main

    os.environ.update(env)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if die_at is not None:
        _die_at(*die_at)
    sys.exit(main(argv))


def _die_at(folder: Path, count: int) -> None:
    events = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
    left = count

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in events and str(folder) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
