"""One way of training on some workers over some link: how long its steps took, or are to take."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from overnight.errors import UserError
from overnight.scaling.links import Link

MEGABYTE = 1e6


@dataclass(frozen=True)
class StepCell:
    """What ``benchmarks/parallel`` measures and writes, one JSON object a cell; without ``step_ms``, one to predict.

    Attributes:
        mode: of the exchange. Its first word says how it goes: ``async…`` through a parameter server, ``local…`` around
            a ring with nothing to compute meanwhile, anything else (ddp, bf16, powersgd, sampled) around a ring while
            backward goes on.
        workers: n.
        bits_per_second: of each worker's link, in one direction; None for one that is not throttled.
        bytes_per_step: that a worker sends, headers left out, on average over many steps: for a ring 2 (n - 1) / n of
            what is exchanged, for local steps that over H, for a server what is pushed.
        compute_ms: of one worker's step without any exchange, alone on its machine; or beside all the others, and then
            cores is None.
        step_ms: measured, exchange included; of an asynchronous mode one worker's, from pull to pull.
        cores: that all workers share, if they are on one machine and use one thread each; None if each has its own, or
            if compute_ms has that in it.
        messages: exchanges of a step, on average (buckets; 1/H of them for local steps; pushes).
        received_bytes_per_step: that a worker receives; None if as many. Only of a server.
        remote_workers: that reach a server over its link; None if all but one do.
        latency_ms: of the link in one direction, where it is known to add to the software's own.
        model: name, for people.

    Raises:
        UserError: for numbers that cannot be.

    >>> cell = StepCell("ddp", workers=4, bits_per_second=1e8, bytes_per_step=102e6, compute_ms=400.0, step_ms=9239.0)
    >>> StepCell.from_json(cell.to_json()) == cell
    True
    >>> round(cell.transfer_ms)
    8160
    """

    mode: str
    workers: int
    bits_per_second: float | None
    bytes_per_step: float
    compute_ms: float
    step_ms: float | None = None
    cores: float | None = None
    messages: float = 1.0
    received_bytes_per_step: float | None = None
    remote_workers: int | None = None
    latency_ms: float = 0.0
    model: str = ""

    def __post_init__(self) -> None:
        above = ("workers", "bits_per_second", "compute_ms", "step_ms", "cores")
        least = ("bytes_per_step", "messages", "received_bytes_per_step", "remote_workers", "latency_ms")
        for name in (*above, *least):
            value = getattr(self, name)
            if value is None and name not in ("workers", "bytes_per_step", "compute_ms", "messages", "latency_ms"):
                continue
            number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and name in above):
                low = "above 0" if name in above else "of at least 0"
                raise UserError(f"{name}={value!r} of a cell cannot be.", f"Give a finite number {low}.")

    @property
    def through_server(self) -> bool:
        """Whether workers exchange with a parameter server, and not around a ring."""
        return self.mode.startswith("async")

    @property
    def overlaps(self) -> bool:
        """Whether an exchange goes on while something is computed."""
        return not self.mode.startswith("local")

    @property
    def stretch(self) -> float:
        """By how much a worker's computation takes longer for want of cores: n / cores, at least 1."""
        return 1.0 if self.cores is None else max(1.0, self.workers / self.cores)

    @property
    def transfer_ms(self) -> float:
        """Bytes over bandwidth of one worker's link: both ways of a server one after the other."""
        sent = self.bytes_per_step + (self._received if self.through_server else 0.0)
        return self._milliseconds(sent)

    @property
    def server_ms(self) -> float:
        """Of the server's link while every remote worker takes a step; it sends and receives at once."""
        remote = self.workers - 1 if self.remote_workers is None else self.remote_workers
        return self._milliseconds(remote * max(self.bytes_per_step, self._received)) if self.through_server else 0.0

    @property
    def handled_megabytes(self) -> float:
        """That a worker packs, sums and copies in a step, times the want of cores."""
        received = self._received if self.through_server else self.bytes_per_step
        return (self.bytes_per_step + received) / MEGABYTE * self.stretch

    @property
    def hops(self) -> float:
        """Messages one after the other: 2 (n - 1) for each exchange around a ring, 2 with a server."""
        return self.messages * (2 if self.through_server else 2 * (self.workers - 1))

    def at(
        self,
        workers: int,
        link: Link | None,
        *,
        cores: float | None = None,
        per_host: int = 1,
        inside: Link | None = None,
        links_per_host: int = 1,
    ) -> "StepCell":
        """The same way of training on other workers and links, to be predicted.

        Bytes follow 2 (n - 1) / n of what is exchanged. Rows of a batch's words grow with the number of workers, and
        bring more: then measure a cell with as many, or count its bytes.

        Args:
            workers: n.
            link: between hosts; None for one that does not count.
            cores: see the attribute.
            per_host: workers of one host, of which the ring makes one pass after the other.
            inside: their link; None does not count.
            links_per_host: that one host's workers have between them, each with its own part of the ring.

        Raises:
            UserError: for a cell of one worker, which exchanges nothing.
        """
        if self.workers < 2 and workers > 1:
            raise UserError(
                "How much one worker would exchange with others is not known.", "Measure a cell of two or more."
            )
        scale = 1.0 if self.through_server else ((workers - 1) / workers) / ((self.workers - 1) / self.workers)
        outside = [link] if link is not None and workers > per_host else []
        rates = [each.bits_per_second * links_per_host for each in outside]
        rates += [inside.bits_per_second] if inside is not None and per_host > 1 else []
        latency = max((each.latency_us for each in [*outside, *([inside] if inside else [])]), default=0.0)
        return replace(
            self, workers=workers, bits_per_second=min(rates, default=None), bytes_per_step=self.bytes_per_step * scale,
            step_ms=None, cores=cores, remote_workers=None, latency_ms=latency / 1e3,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain data; attributes that are None are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "StepCell":
        """From plain data. Keys that are no attributes (perplexity, seed, …) are left aside.

        Raises:
            UserError: for a missing key, or numbers that cannot be.
        """
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in record.items() if name in known}
        missing = [name for name in ("mode", "workers", "bytes_per_step", "compute_ms") if name not in given]
        if missing:
            raise UserError(f"A cell lacks {', '.join(missing)}.", "Write cells with StepCell.to_json.")
        return cls(**{"bits_per_second": None} | given)

    @property
    def _received(self) -> float:
        return self.bytes_per_step if self.received_bytes_per_step is None else self.received_bytes_per_step

    def _milliseconds(self, size: float) -> float:
        return 0.0 if self.bits_per_second is None else 8e3 * size / self.bits_per_second


def read_cells(path: Path) -> list[StepCell]:
    """Cells from a JSON file: a list of objects, or an object that has it under ``cells``.

    Raises:
        UserError: if it is not so; the message names file and cell.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).", "Give a file of measured cells.") from error
    records = content.get("cells") if isinstance(content, dict) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} has no list of cells.", "Give a list of objects, or an object with such under cells.")
    cells = []
    for place, record in enumerate(records):
        try:
            cells.append(StepCell.from_json(record))
        except UserError as error:
            raise UserError(f"{path}, cell {place + 1}: {error.problem}", error.remedy) from error
    return cells


def write_cells(cells: Iterable[StepCell], path: Path) -> None:
    """Write cells as ``read_cells`` reads them."""
    path.write_text(json.dumps([cell.to_json() for cell in cells], indent=1) + "\n")
