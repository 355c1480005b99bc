"""Classifying files and streams: texts in, records out, a batch at a time."""

import csv
import io
import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from overnight.errors import UserError
from overnight.evaluate.transfer.classifier import Classifier

_ENDED = object()


def find_classifier(run: Path, name: str | None) -> Classifier:
    """The classifier `name` of a run (RUN/transfer/NAME), or in the folder `name`; the only one, if there is no name.

    Raises:
        UserError: there is none, or several and no name.
    """
    inside = run / "transfer"
    if name is not None:
        place = inside / name
        return Classifier.load(place if place.is_dir() else Path(name))
    found = sorted(path.parent for path in inside.glob("*/classifier.json") if not path.parent.name.startswith("."))
    if not found:
        raise UserError(f"{run} has no classifier.", f"Train one with: overnight classify train DATA --run {run}.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{run} has several classifiers: {names}.", "Name one with --classifier.")
    return Classifier.load(found[0])


def batches(texts: Iterable[str], size: int, *, live: bool) -> Iterator[list[str]]:
    """Lists of at most `size` texts in their order; of a `live` stream, those that have arrived, without waiting.

    >>> list(batches(["a", "b", "c"], 2, live=False))
    [['a', 'b'], ['c']]
    """
    if not live:
        rest = iter(texts)
        while batch := list(islice(rest, size)):
            yield batch
        return
    arrived: queue.Queue[Any] = queue.Queue(maxsize=4 * size)

    def read() -> None:
        try:
            for text in texts:
                arrived.put(text)
            arrived.put(_ENDED)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        items = [arrived.get()]
        with suppress(queue.Empty):
            while len(items) < size:
                items.append(arrived.get_nowait())
        batch = [item for item in items if isinstance(item, str)]
        if batch:
            yield batch
        last = items[-1]
        if isinstance(last, BaseException):
            raise last
        if last is _ENDED:
            return


def write_predictions(
    model: Any, classifier: Classifier, groups: Iterable[list[str]], output: Literal["csv", "jsonl"], out: Path | None
) -> int:
    """Classify texts group by group and write each group's records at once; returns how many.

    Args:
        model: a `ByteModel`.
        classifier: trained with it.
        groups: of texts.
        output: csv (with a header; bytes that are not UTF-8 come back as they were) or jsonl (they are U+FFFD).
        out: a file, which is whole or absent; None is standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if out is None:
        return _write(model, classifier, groups, output, sys.stdout.buffer)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            count = _write(model, classifier, groups, output, file)
        if count:
            aside.replace(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}).", "Choose another place with --out."
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def _write(model: Any, classifier: Classifier, groups: Iterable[list[str]], output: str, file: Any) -> int:
    count = 0
    for group in groups:
        rows = classifier.predict_proba(classifier.features(model, group))
        if output == "csv":
            text = _csv(classifier, group, rows, header=not count)
        else:
            text = b"".join(_json(classifier, one, row) for one, row in zip(group, rows, strict=True))
        file.write(text)
        file.flush()
        count += len(group)
    return count


def _csv(classifier: Classifier, texts: list[str], rows: Any, header: bool) -> bytes:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    if header:
        writer.writerow(["label", *(f"p_{name}" for name in classifier.classes), "text"])
    for text, row in zip(texts, rows, strict=True):
        writer.writerow([classifier.classes[row.argmax()], *(f"{p:.6g}" for p in row), text])
    return written.getvalue().encode("utf-8", "surrogateescape")


def _json(classifier: Classifier, text: str, row: Any) -> bytes:
    record = {
        "label": classifier.classes[row.argmax()],
        "probabilities": {name: round(float(p), 6) for name, p in zip(classifier.classes, row, strict=True)},
        "text": text.encode("utf-8", "replace").decode(),
    }
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
