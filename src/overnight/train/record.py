"""What a run says of itself: frozen records, and the sinks that take them."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from overnight.errors import UserError
from overnight.metrics import METRICS


@dataclass(frozen=True)
class StepRecord:
    """One logging step (docs/run-folder.md, metrics.jsonl), with the run's own metric; the others are None.

    Of a run with a metered way to train on several ranks, means over the ranks and the steps since the last line:
    ``sent_bytes``, which a rank sends in a step, and of its seconds ``computing_seconds`` and ``waiting_seconds``.
    """

    step: int
    samples: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float | None
    perplexity: float | None
    lr: float
    grad_norm: float
    clipped: float
    skipped: int
    tokens_per_s: float
    loss_scale: float | None = None
    sent_bytes: float | None = None
    computing_seconds: float | None = None
    waiting_seconds: float | None = None


class Sink(Protocol):
    """Takes records; it cannot change the run."""

    def step(self, record: StepRecord) -> None:
        """A logging step."""

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """An evaluation."""

    def sample(self, record: Mapping[str, Any]) -> None:
        """A sampled text."""

    def decision(self, record: Mapping[str, Any]) -> None:
        """What was decided while training went on."""

    def close(self) -> None:
        """The run ends."""


class JsonlSink:
    """metrics.jsonl, eval.jsonl and samples.jsonl of a run folder; every line is written at once and whole.

    Where something is decided while training goes on, decisions.jsonl too.

    Raises:
        UserError: if a line cannot be written; the lines before it are as they were.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: _open(folder / f"{name}.jsonl") for name in ("metrics", "eval", "samples")}

    def step(self, record: StepRecord) -> None:
        data = {name: value for name, value in asdict(record).items() if value is not None}
        self._write("metrics", data)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        self._write("eval", record)

    def sample(self, record: Mapping[str, Any]) -> None:
        self._write("samples", record)

    def decision(self, record: Mapping[str, Any]) -> None:
        if "decisions" not in self._files:
            self._files["decisions"] = _open(self._folder / "decisions.jsonl")
        self._write("decisions", record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        file = self._files[name]
        rest = (json.dumps(finite(data)) + "\n").encode()
        size = os.fstat(file.fileno()).st_size
        try:
            while rest:  # a full disk may take part of a line
                rest = rest[file.write(rest) :]
        except OSError as error:
            os.ftruncate(file.fileno(), size)
            raise _unwritable(file.name, error) from error


def finite(data: Any) -> Any:
    """The same data with None for numbers that JSON has no word for."""
    if isinstance(data, Mapping):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _open(path: Path) -> FileIO:
    try:
        return FileIO(path, "a")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(name: Any, error: OSError) -> UserError:
    problem = f"{name} cannot be written ({error.strerror})."
    return UserError(problem, "Free some space there, or make it writable, then: overnight train RUN --resume.")


def truncate_records(folder: Path, step: int, evaluated_step: int) -> None:
    """Drop what a resumed run writes again: metrics after one step, evaluations after another, torn lines."""
    lasts = {"metrics": step, "eval": evaluated_step, "samples": evaluated_step, "decisions": step if step else -1}
    for name, last in lasts.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= last:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        aside = path.with_name(f".{path.name}")
        try:
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _unwritable(path, error) from error


class TensorBoardSink:
    """TensorBoard event files in the run folder.

    Args:
        folder: the run folder.
        step: where a resumed run goes on: events after it are hidden.

    Raises:
        UserError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._writer = summary_writer()(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def step(self, record: StepRecord) -> None:
        for name, value in asdict(record).items():
            if name != "step" and value is not None:
                self._scalar(f"train/{name}", value, record.step)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        for name in METRICS:
            if name in record:
                self._scalar(f"{record['split']}/{name}", record[name], record["step"])

    def sample(self, record: Mapping[str, Any]) -> None:
        with self._told():
            self._writer.add_text("sample", record["text"], record["step"])

    def decision(self, record: Mapping[str, Any]) -> None:
        with self._told():
            self._writer.add_text(f"decision/{record['what']}", record["text"], record["step"])

    def close(self) -> None:
        with suppress(OSError):  # a full disk was told of when it was met
            self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        with self._told():
            self._writer.add_scalar(name, value, step)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritable(self._writer.log_dir, error) from error


def summary_writer() -> Any:
    """TensorBoard's writer class.

    Raises:
        UserError: if tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard.", "Install it with: pip install 'overnight[track]'"
        ) from None
    return SummaryWriter


class Meter:
    """Sums between two logging steps. Tensors are kept and read only when a record is made.

    Attributes:
        steps: taken, skipped ones counted.
        waited: seconds of these in the trainer's own exchanges.
    """

    def __init__(self) -> None:
        self._totals: list[Any] = []
        self._norms: list[Any] = []
        self._counts = 0
        self.steps, self.waited = 0, 0.0
        self._started = time.monotonic()

    def add(self, total: Any, norm: Any, count: int) -> None:
        self._totals.append(total)
        self._norms.append(norm)
        self._counts += count

    def exclude(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._started += seconds

    def read(self, max_norm: float | None) -> dict[str, float]:
        """Summed loss, its count, mean gradient norm, share of clipped steps, seconds, waited, steps; start anew."""
        totals = [float(total) for total in self._totals]
        norms = [float(norm) for norm in self._norms]
        finite = [norm for norm in norms if math.isfinite(norm)]
        clipped = sum(norm > max_norm for norm in finite) if max_norm is not None else 0
        now = time.monotonic()
        reading = {
            "total": sum(totals),
            "count": float(self._counts),
            "grad_norm": sum(finite) / len(finite) if finite else math.nan,
            "clipped": clipped / len(norms) if norms else 0.0,
            "seconds": now - self._started,
            "waited": self.waited,
            "steps": float(self.steps),
        }
        self.steps, self.waited = 0, 0.0
        self._totals, self._norms, self._counts, self._started = [], [], 0, now
        return reading
