"""A run as the page knows it, and what can be said of several together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.report.facts import Facts, facts_of
from overnight.report.read import RunRecord, read_run
from overnight.report.settings import labels_of


@dataclass(frozen=True)
class Entry:
    """A run's place among the runs of a page, its short name, its record and its headline."""

    index: int
    label: str
    record: RunRecord
    facts: Facts


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """Read each run once, however often it is named.

    Raises:
        UserError: one of `folders` is not a run folder that this version reads.
    """
    records = list({record.path.resolve(): record for record in map(read_run, folders)}.values())
    labels = labels_of([record.path for record in records])
    pairs = enumerate(zip(labels, records, strict=True))
    return [Entry(index, label, record, facts_of(record)) for index, (label, record) in pairs]


def baselines_of(entries: Sequence[Entry]) -> dict[str, float]:
    """The baselines of all runs, lowest last; one that the runs disagree on bears the run's name."""
    found: dict[str, dict[float, str]] = {}
    for entry in entries:
        for baseline in entry.facts.baselines:
            found.setdefault(baseline.name, {}).setdefault(round(baseline.score, 6), entry.label)
    named = {
        name if len(values) == 1 else f"{name} ({label})": value
        for name, values in found.items()
        for value, label in values.items()
    }
    return dict(sorted(named.items(), key=lambda pair: -pair[1]))


def cautions_of(entries: Sequence[Entry]) -> list[str]:
    """What makes a comparison of these runs' held-out numbers doubtful, one sentence each."""
    metrics = [name.replace("_", " ") for name in dict.fromkeys(entry.record.metric for entry in entries)]
    if len(metrics) > 1:
        said = " and some in ".join(metrics)
        return [f"Some runs are scored in {said}: these numbers cannot be compared."]
    counted = entries[0].record.counted if entries else "bytes"
    finals = [entry.facts.final for entry in entries if entry.facts.final is not None]
    cautions = []
    if len({final.bytes for final in finals if final.bytes is not None}) > 1:
        cautions.append(f"The runs were scored on different numbers of held-out {counted}: compare them with care.")
    if len({final.split for final in finals}) > 1:
        cautions.append("The runs' final scores are on different splits: compare them with care.")
    names = [{b.name: round(b.score, 6) for b in entry.facts.baselines} for entry in entries]
    shared = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a.keys() & b.keys()]
    if any(a[name] != b[name] for a, b in shared for name in a.keys() & b.keys()):
        cautions.append(f"The runs' baselines differ, so their held-out {counted} are not the same: compare with care.")
    return cautions
