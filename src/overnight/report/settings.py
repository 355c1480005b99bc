"""A run's settings as flat names and readable values, and where several runs differ."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.report.read import RunRecord


@dataclass(frozen=True)
class Row:
    """One setting, with its value in each run (None: the run has no such setting)."""

    name: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree."""
        return len(set(self.values)) > 1


def flatten(value: object, name: str = "") -> dict[str, object]:
    """Nested settings as dotted names, in order; a component's keyword arguments stand right below it, as in `--set`.

    >>> flatten({"seed": 1, "optimizer": {"call": "torch.optim.Adam", "kwargs": {"lr": 0.1, "betas": [0.9, 0.99]}}})
    {'seed': 1, 'optimizer': 'torch.optim.Adam', 'optimizer.lr': 0.1, 'optimizer.betas': [0.9, 0.99]}
    """
    flat: dict[str, object] = {}
    if isinstance(value, Mapping) and isinstance(value.get("call"), str):
        flat[name or "call"] = value["call"]
        inside: Iterable[tuple[object, object]] = [
            *_items(value.get("kwargs")),
            *((key, item) for key, item in value.items() if key not in ("call", "kwargs")),
        ]
    elif isinstance(value, Mapping) and value:
        inside = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        inside = enumerate(value)
    else:
        return {name: value}
    for key, item in inside:
        flat.update(flatten(item, f"{name}.{key}" if name else str(key)))
    return flat


def find_setting(places: Iterable[Mapping[str, object]], *names: str) -> object:
    """The value of the first of `names`, or of a name that ends in it, in the first of `places` that knows it.

    >>> find_setting([{"parameters": 10}, {"optimizer": {"call": "Adam", "kwargs": {"lr": 0.1}}}], "lr", "rate")
    0.1
    """
    for place in places:
        flat = flatten(place)
        for name in names:
            known = [key for key in flat if key.rsplit(".", 1)[-1] == name and flat[key] is not None]
            if known:
                return flat[min(known, key=lambda key: key.count("."))]
    return None


def rows_of(places: Sequence[Mapping[str, object]]) -> list[Row]:
    """One row each setting that any of `places` has, in the order in which they first name them."""
    flats = [flatten(place) if place else {} for place in places]
    names = dict.fromkeys(name for flat in flats for name in flat)
    return [Row(name, tuple(_show(flat[name]) if name in flat else None for flat in flats)) for name in names]


def labels_of(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: its own, with as many of its parents as it takes to tell them apart.

    >>> labels_of([Path("/a/run"), Path("/b/run")])
    ['a/run', 'b/run']
    """
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max((len(part) for part in parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def commands_of(record: RunRecord) -> list[str]:
    """What to type to run it again: the command that started it, and the one that takes its resolved settings."""
    again = shlex.join(["overnight", "train", str(record.path / "run.json")])
    if not record.command:
        return [again]
    program, *rest = record.command
    if Path(program).name in ("overnight", "__main__.py", "__init__.py"):
        program = "overnight"
    return [shlex.join([program, *rest]), again]


def _items(value: object) -> Iterable[tuple[object, object]]:
    return value.items() if isinstance(value, Mapping) else ()


def _show(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
