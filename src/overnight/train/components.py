"""Components: constructors with their keyword arguments, written down as import paths and read back.

A component is a ``functools.partial``; run.json holds it as ``{"call": "import.path", "kwargs": {…}}``. There is no
second registry and no pickle: the constructor's signature is the schema.
"""

import difflib
import importlib
import inspect
from functools import partial
from typing import Any

from overnight.errors import UserError

Component = partial[Any]

TRUSTED = (
    "overnight.optim.",
    "overnight.schedule.",
    "overnight.data.lanes.",
    "overnight.data.words.lanes.",
    "overnight.data.pairs.batches.",
    "overnight.data.images.batches.",
    "overnight.data.ratings.batches.",
    "overnight.data.ratings.RatingSettings",
    "overnight.models.",
    "overnight.tasks.",
    "overnight.evaluate.training.",
    "overnight.evaluate.words.",
    "overnight.evaluate.translation.",
    "overnight.evaluate.images.",
    "overnight.evaluate.ratings.",
    "overnight.train.average.",
    "overnight.train.start.",
    "overnight.data.masked.batches.",
    "overnight.data.masked.labelled.",
    "overnight.data.masked.spans.",
    "overnight.evaluate.labels.",
    "overnight.evaluate.answers.",
    "overnight.evaluate.masked.",
    "overnight.comm.fully_sharded.fsdp",
    "overnight.comm.strategies.",
    "overnight.comm.asynchronous.",
    "overnight.scaling.",
    "torch.optim.",
    "torch.nn.",
)
"""Where a run.json's components may come from without ``trust``: nothing there writes to a path that it is given."""


def import_object(path: str) -> Any:
    """The object at ``package.module.Name``.

    Raises:
        UserError: if it cannot be imported.
    """
    module_name, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "Give an import path such as torch.optim.AdamW."
        raise UserError(f"{path!r} cannot be imported: {error}.", remedy) from error


def import_path(target: Any) -> str:
    """Where a class or function can be imported from."""
    path = f"{target.__module__}.{target.__qualname__}"
    # torch.optim.adam.Adam → torch.optim.Adam where the package exports it: shorter, and stable between versions
    parts = path.split(".")
    for end in range(1, len(parts) - 1):
        short = ".".join([*parts[:end], parts[-1]])
        try:
            if getattr(importlib.import_module(".".join(parts[:end])), parts[-1], None) is target:
                return short
        except ImportError:
            continue
    return path


def to_json(value: Any) -> Any:
    """A component, or plain data that may hold components → JSON-ready data."""
    if isinstance(value, partial):
        if value.args:
            raise TypeError(f"{value} has positional arguments; components take keywords only.")
        kwargs = {name: to_json(item) for name, item in value.keywords.items()}
        return {"call": import_path(value.func), "kwargs": kwargs}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot stand in run.json.")


def from_json(value: Any, trust: bool = False) -> Any:
    """What ``to_json`` wrote → components.

    A run.json may come from somebody else, so what it names is not even imported unless it is a part of overnight or
    an optimizer or module of torch.

    Args:
        value: JSON data.
        trust: import whatever it names.

    Raises:
        UserError: for a name outside ``TRUSTED``, unless ``trust``.
    """
    if isinstance(value, dict):
        path, settings = value.get("call"), value.get("kwargs")
        if not isinstance(path, str) or not isinstance(settings, dict):
            raise UserError(
                "This run.json is not whole: a component has no call or no kwargs.", "Restore it from a copy."
            )
        if not trust and not path.startswith(TRUSTED):
            raise UserError(
                f"This run.json names {path!r}, which is not a part of overnight or torch.",
                "If you trust where it comes from, train it with --trust.",
            )
        return partial(import_object(path), **{name: from_json(item, trust) for name, item in settings.items()})
    if isinstance(value, list):
        return tuple(from_json(item, trust) for item in value)
    return value


def with_keyword(component: Component, name: str, value: Any, where: str) -> Component:
    """A copy of a component with one keyword argument changed, its name checked against the signature.

    Raises:
        UserError: if the constructor takes no such argument; it lists those it takes, nearest first.
    """
    names = keyword_names(component.func)
    if names is not None and name not in names:
        problem = f"{where}.{name} is not a setting of {import_path(component.func)}."
        raise UserError(problem, suggest(name, names, where))
    return partial(component.func, **{**component.keywords, name: value})


def keyword_names(target: Any) -> list[str] | None:
    """The keyword arguments that a callable takes, or None if it takes any."""
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def suggest(name: str, names: list[str], prefix: str = "") -> str:
    """A remedy that names the nearest valid names, or all of them."""
    dot = f"{prefix}." if prefix else ""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(dot + item for item in near)}?"
    return f"Valid names: {', '.join(dot + item for item in names)}."
