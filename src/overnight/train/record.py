"""What a run says of itself: frozen records, and the sinks that take them."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from overnight.errors import UserError


@dataclass(frozen=True)
class StepRecord:
    """One logging step (docs/run-folder.md, metrics.jsonl)."""

    step: int
    samples: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float
    lr: float
    grad_norm: float
    clipped: float
    skipped: int
    tokens_per_s: float
    loss_scale: float | None = None


class Sink(Protocol):
    """Takes records; it cannot change the run."""

    def step(self, record: StepRecord) -> None:
        """A logging step."""

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """An evaluation."""

    def sample(self, record: Mapping[str, Any]) -> None:
        """A sampled text."""

    def close(self) -> None:
        """The run ends."""


class JsonlSink:
    """metrics.jsonl, eval.jsonl and samples.jsonl of a run folder; every line is flushed."""

    def __init__(self, folder: Path) -> None:
        self._files = {
            name: (folder / f"{name}.jsonl").open("a", encoding="utf-8") for name in ("metrics", "eval", "samples")
        }

    def step(self, record: StepRecord) -> None:
        data = {name: value for name, value in asdict(record).items() if value is not None}
        self._write("metrics", data)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        self._write("eval", record)

    def sample(self, record: Mapping[str, Any]) -> None:
        self._write("samples", record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in data.items()}
        file = self._files[name]
        try:
            file.write(json.dumps(finite) + "\n")
            file.flush()
        except OSError as error:
            problem = f"{file.name} cannot be written ({error.strerror})."
            raise UserError(problem, "Free some space, then: overnight train RUN --resume.") from error


def truncate_records(folder: Path, step: int) -> None:
    """Drop the lines after a step (and a torn last line): a resumed run writes them again."""
    for name in ("metrics", "eval", "samples"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                continue
        aside = path.with_name(f".{path.name}")
        aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        aside.replace(path)


class TensorBoardSink:
    """TensorBoard event files in the run folder.

    Raises:
        UserError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--tensorboard needs tensorboard.", "Install it with: pip install 'overnight[track]'"
            ) from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def step(self, record: StepRecord) -> None:
        for name, value in asdict(record).items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"train/{name}", value, record.step)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        self._writer.add_scalar(f"{record['split']}/bits_per_byte", record["bits_per_byte"], record["step"])

    def sample(self, record: Mapping[str, Any]) -> None:
        self._writer.add_text("sample", record["text"], record["step"])

    def close(self) -> None:
        self._writer.close()


class Meter:
    """Sums between two logging steps. Tensors are kept and read only when a record is made."""

    def __init__(self) -> None:
        self._totals: list[Any] = []
        self._norms: list[Any] = []
        self._counts = 0
        self._started = time.monotonic()

    def add(self, total: Any, norm: Any, count: int) -> None:
        self._totals.append(total)
        self._norms.append(norm)
        self._counts += count

    def exclude(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._started += seconds

    def read(self, max_norm: float | None) -> dict[str, float]:
        """Summed loss and its count, mean gradient norm, share of clipped steps, seconds; then start anew."""
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
        }
        self._totals, self._norms, self._counts, self._started = [], [], 0, now
        return reading
