"""A tuned baseline on the command line: a recipe with its arguments, a run folder or a run.json."""

import inspect
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.train.run import Run


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """What every command takes that begins with a baseline."""

    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            metavar="NAME=VALUE", help="Set anything of the run, e.g. max_norm=0.5. No rule then changes it."
        ),
    ] = ()
    trust: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Import what a run.json names outside overnight and torch."),
    ] = False


T = TypeVar("T", bound=BaselineOptions)


def parse(
    command: str, kind: type[T], argv: list[str], without: Collection[str] = ()
) -> "tuple[T, Callable[[], Run], Path | None]":
    """The command's own options, what makes the baseline, and the run folder that it is if it is one.

    Args:
        command: name of the command.
        kind: a frozen dataclass of its options. What a recipe has of the same name is not asked for.
        argv: recipe, folder or file, and arguments.
        without: parameters of recipes that the command decides.

    Raises:
        UserError: if there is neither such a recipe nor such a run.
    """
    from overnight.recipes import RECIPES, find

    target, rest = argv[0], argv[1:]
    path = Path(target)
    if target not in RECIPES and path.exists():
        options = tyro.cli(kind, args=rest, prog=f"overnight {command} {target}")
        return options, lambda: _read(path, options.trust), path if path.is_dir() else None
    if target not in RECIPES and len(path.parts) > 1:
        raise UserError(f"{target} does not exist.", "Name a recipe (see: overnight list), a run or a run.json.")
    recipe = find(target)
    own = inspect.signature(recipe, eval_str=False).parameters
    taken = set(getattr(kind, "__dataclass_fields__", {})) | set(without)
    kept = {name: parameter for name, parameter in own.items() if name not in taken}

    def collect(options: T, **arguments: Any) -> tuple[T, dict[str, Any]]:
        return options, arguments

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in kept.values()]
    # an option without a default makes the whole group required
    first = inspect.Parameter("options", inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    collect.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    annotations = {name: note for name, note in recipe.__annotations__.items() if name in kept}
    collect.__annotations__ = annotations | {"options": Annotated[kind, tyro.conf.arg(name="")]}
    collect.__doc__ = f"{kind.__doc__}\n\n{_arguments(recipe)}"
    chosen, arguments = tyro.cli(collect, args=rest, prog=f"overnight {command} {target}")
    return chosen, lambda: recipe(**arguments), None


def _arguments(recipe: Callable[..., Any]) -> str:
    """The part of a recipe's docstring that explains its arguments."""
    _, found, arguments = inspect.cleandoc(recipe.__doc__ or "").partition("Args:")
    return found + arguments


def _read(path: Path, trust: bool) -> "Run":
    from overnight.train.checkpoint import read_run_json
    from overnight.train.run import Run

    return Run.from_json(read_run_json(path)["run"], trust)


def apply_settings(run: "Run", assignments: Collection[str]) -> "Run":
    """``--set`` s."""
    for assignment in assignments:
        run = run.with_setting(assignment)
    return run


def write_json(path: Path, data: Any) -> None:
    """A JSON file in one go, in a folder that exists.

    Raises:
        UserError: if it cannot be written.
    """
    from overnight.train.folder import write_json as write

    check_out(path)
    write(path, data)


def check_out(path: Path | None) -> None:
    """Raise a UserError for a file that could not be written; to be asked before the work that it is to hold."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder.", "Give --out the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} does not exist.", "Make it first, or choose another --out.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written.", "Choose another --out.")
