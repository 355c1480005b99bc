"""Reading a run folder (docs/run-folder.md) into typed records: the only door between a run and what shows it.

The reader forgives what a run that is still going, or was killed, leaves behind: no `summary.json`, a last line cut
short, missing files, values that are not finite. It refuses what it cannot understand: a folder that is not a run and
a format it does not know.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from overnight.errors import UserError

FORMAT = "overnight-run/1"
SCORES = ("bits_per_byte", "perplexity", "accuracy", "rmse")
"""Names under which an evaluation holds its score."""
ACCURACIES = ("accuracy", "masked_accuracy", "text_accuracy", "f1")
"""Names that records have for an accuracy: of images, hidden word pieces and texts; and F1 of answers, shown alike."""
COUNTS = ("bytes", "words", "images", "pieces", "texts", "questions", "ratings")
"""Names that records have for how many were scored."""

Json = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Metric:
    """One logging step. `tokens` are bytes for a byte model, `seconds` training time; None is absent or not finite.

    The `rmse` of ratings is the root of the loss.
    """

    step: int
    samples: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    perplexity: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    clipped: float | None = None
    skipped: float | None = None
    tokens_per_s: float | None = None
    loss_scale: float | None = None
    sent_bytes: float | None = None
    computing_seconds: float | None = None
    waiting_seconds: float | None = None
    rmse: float | None = None

    @property
    def score(self) -> float | None:
        """Bits per byte, perplexity, or RMSE."""
        return next((v for v in (self.bits_per_byte, self.perplexity, self.rmse) if v is not None), None)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: bits per byte over `bytes` held-out bytes of `split`, `low` to `high` its 95 % interval.

    Of words it is their `perplexity`, and `bytes` counts words. Of images it is the `accuracy`, in percent as `low` and
    `high` then are, and `bytes` counts images. Of ratings it is the `rmse`, and `bytes` counts them.
    """

    step: int
    split: str
    samples: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    bits_per_byte: float | None = None
    low: float | None = None
    high: float | None = None
    bytes: float | None = None
    perplexity: float | None = None
    accuracy: float | None = None
    rmse: float | None = None

    @property
    def score(self) -> float | None:
        """Bits per byte, perplexity, accuracy in percent, or RMSE."""
        values = (self.bits_per_byte, self.perplexity, self.accuracy, self.rmse)
        return next((value for value in values if value is not None), None)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled text: what the model wrote after `prompt` at `step`."""

    step: int
    prompt: str
    text: str
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """The score of something that is not the model (a compressor) on the same held-out data."""

    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Best:
    """The best held-out score of a run, and its step."""

    step: int
    score: float


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    state: str
    reason: str
    step: int | None
    samples: float | None
    tokens: float | None
    seconds: float | None
    best: Best | None
    final: Evaluation | None
    baselines: tuple[Baseline, ...]


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run folder says. `summary` is None while the run goes on or if it was killed.

    `problems` holds one sentence for each thing that could not be read and was left out.
    """

    path: Path
    recipe: str
    overnight: str
    command: tuple[str, ...]
    started: str
    run: Json
    derived: Json
    environment: Json
    metrics: tuple[Metric, ...]
    evaluations: tuple[Evaluation, ...]
    samples: tuple[Sample, ...]
    summary: Summary | None
    problems: tuple[str, ...]

    @property
    def metric(self) -> str:
        """What its scores are: ``bits_per_byte``, ``perplexity``, ``accuracy`` or ``rmse``."""
        named = self.derived.get("metric")
        return "accuracy" if named in ACCURACIES else named if named in SCORES else "bits_per_byte"

    @property
    def counted(self) -> str:
        """What is scored: ``bytes``, ``words``, ``images`` or ``ratings``."""
        return str(self.derived.get("counted", "bytes"))


def read_run(path: str | Path) -> RunRecord:
    """Read the run folder `path` (or the folder of the `run.json` that `path` names).

    Steps that a resumed run took again replace the first taking of them.

    Raises:
        UserError: `path` is not a run folder, its `run.json` or `summary.json` is not valid, or its format is unknown.
    """
    folder = Path(path)
    if folder.name == "run.json" and folder.is_file():
        folder = folder.parent
    head = _read_head(folder)
    problems: list[str] = []
    metrics = _read_lines(folder / "metrics.jsonl", _metric, problems)
    evaluations = _read_lines(folder / "eval.jsonl", _evaluation, problems)
    if _mapping(head.get("derived")).get("metric") == "rmse":
        metrics = [replace(m, rmse=math.sqrt(m.loss)) if m.loss is not None and m.loss >= 0 else m for m in metrics]
    return RunRecord(
        path=folder,
        recipe=_text(head.get("recipe")) or "unnamed recipe",
        overnight=_text(head.get("overnight")),
        command=tuple(_text(word) for word in _sequence(head.get("command"))),
        started=_text(head.get("started")),
        run=_mapping(head.get("run")),
        derived=_mapping(head.get("derived")),
        environment=_mapping(head.get("environment")),
        metrics=_last_taking(metrics),
        evaluations=_one_per_step(evaluations),
        samples=tuple(_read_lines(folder / "samples.jsonl", _sample, problems)),
        summary=_read_summary(folder / "summary.json"),
        problems=tuple(problems),
    )


def _read_head(folder: Path) -> Json:
    file = folder / "run.json"
    if not folder.exists():
        raise UserError(f"There is no run at {folder}.", "Give the path of a folder that overnight train wrote.")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a run folder.", "Give the folder that holds the run's run.json.")
    if not file.is_file():
        inside = sorted(child.parent.name for child in folder.glob("*/run.json"))
        remedy = "Give the path of a folder that overnight train wrote."
        if inside:
            remedy = f"It holds runs, though: {', '.join(inside[:5])}{', …' if len(inside) > 5 else ''}; name those."
        raise UserError(f"{folder} is not a run folder: it has no run.json.", remedy)
    head = _read_object(file)
    version = head.get("format")
    if version != FORMAT:
        raise UserError(
            f"{file} has the format {version!r}, and this version of overnight reads {FORMAT!r}.",
            "Update overnight, or use the version that wrote the run"
            + (f" ({_text(head.get('overnight'))})." if head.get("overnight") else "."),
        )
    return head


def _read_summary(file: Path) -> Summary | None:
    if not file.is_file():
        return None
    raw = _read_object(file)
    best, final = _mapping(raw.get("best")), _mapping(raw.get("final"))
    best_step, best_score = _integer(best.get("step")), _score(best)
    baselines = [(_text(item.get("name")), _score(item)) for item in _objects(raw.get("baselines"))]
    return Summary(
        state=_text(raw.get("state")) or "unknown",
        reason=_text(raw.get("reason")),
        step=_integer(raw.get("step")),
        samples=_number(raw.get("samples")),
        tokens=_number(raw.get("tokens")),
        seconds=_number(raw.get("seconds")),
        best=Best(best_step, best_score) if best_step is not None and best_score is not None else None,
        final=_evaluation(final),
        baselines=tuple(Baseline(name, score) for name, score in baselines if name and score is not None),
    )


def _read_object(file: Path) -> Json:
    try:
        value = json.loads(file.read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.", "Check the path and its permissions.") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}.", "Restore the file, or leave this run out.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no JSON object.", "Restore the file, or leave this run out.")
    return value


def _read_lines(file: Path, parse: Callable[[Json], _T | None], problems: list[str]) -> list[_T]:
    """Parse each line of `file`; a missing file has none. A line cut short at the end is a killed or writing run's."""
    records: list[_T] = []
    bad: list[int] = []
    if not file.is_file():
        return records
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode("utf-8", "replace"))
                except ValueError:
                    value = None
                record = parse(value) if isinstance(value, dict) else None
                if record is not None:
                    records.append(record)
                elif line.endswith(b"\n"):
                    bad.append(number)
                else:
                    problems.append(f"The last line of {file.name} is cut short and was left out.")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if bad:
        numbers = ", ".join(str(number) for number in bad[:5]) + (", …" if len(bad) > 5 else "")
        problems.append(f"{len(bad)} unreadable line(s) of {file.name} were left out (line {numbers}).")
    return records


def _last_taking(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    kept: list[Metric] = []
    for record in metrics:
        while kept and kept[-1].step >= record.step:
            kept.pop()
        kept.append(record)
    return tuple(kept)


def _one_per_step(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    # Not _last_taking: an older checkpoint may be evaluated after a newer one without making the newer one void.
    latest = {(record.split, record.step): record for record in evaluations}
    return tuple(sorted(latest.values(), key=lambda record: record.step))


def _metric(raw: Json) -> Metric | None:
    step = _integer(raw.get("step"))
    if step is None:
        return None
    return Metric(
        step=step,
        samples=_number(raw.get("samples")),
        tokens=_number(raw.get("tokens")),
        seconds=_number(raw.get("seconds")),
        loss=_number(raw.get("loss")),
        bits_per_byte=_number(raw.get("bits_per_byte")),
        perplexity=_number(raw.get("perplexity")),
        lr=_number(raw.get("lr")),
        grad_norm=_number(raw.get("grad_norm")),
        clipped=_number(raw.get("clipped")),
        skipped=_number(raw.get("skipped")),
        tokens_per_s=_number(raw.get("tokens_per_s")),
        loss_scale=_number(raw.get("loss_scale")),
        sent_bytes=_number(raw.get("sent_bytes")),
        computing_seconds=_number(raw.get("computing_seconds")),
        waiting_seconds=_number(raw.get("waiting_seconds")),
    )


def _evaluation(raw: Json) -> Evaluation | None:
    step = _integer(raw.get("step"))
    if step is None:
        return None
    accuracy = _times(100.0, _accuracy(raw))
    unit = 1.0 if accuracy is None else 100.0
    return Evaluation(
        step=step,
        split=_text(raw.get("split")) or "held-out",
        samples=_number(raw.get("samples")),
        tokens=_number(raw.get("tokens")),
        seconds=_number(raw.get("seconds")),
        bits_per_byte=_number(raw.get("bits_per_byte")),
        low=_times(unit, raw.get("low")),
        high=_times(unit, raw.get("high")),
        bytes=_first_number(*(raw.get(name) for name in COUNTS)),
        perplexity=_number(raw.get("perplexity")),
        accuracy=accuracy,
        rmse=_number(raw.get("rmse")),
    )


def _sample(raw: Json) -> Sample | None:
    step = _integer(raw.get("step"))
    if step is None or not isinstance(raw.get("text"), str):
        return None
    return Sample(step, _text(raw.get("prompt")), _text(raw.get("text")), _number(raw.get("temperature")))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _times(factor: float, value: object) -> float | None:
    number = _number(value)
    return None if number is None else factor * number


def _first_number(*values: object) -> float | None:
    return next((number for value in values if (number := _number(value)) is not None), None)


def _score(raw: Json) -> float | None:
    other = (raw.get(name) for name in ("bits_per_byte", "perplexity", "rmse"))
    return _first_number(*other, _times(100.0, _accuracy(raw)))


def _accuracy(raw: Json) -> float | None:
    return _first_number(*(raw.get(name) for name in ACCURACIES))


def _integer(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: object) -> str:
    """A string that UTF-8 can hold: JSON may carry halves of surrogate pairs, which a file cannot."""
    if value is None:
        return ""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _objects(value: object) -> list[Json]:
    return [item for item in _sequence(value) if isinstance(item, dict)]
