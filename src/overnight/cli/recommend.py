"""`overnight recommend RUN`: the items that a user would rate highest, from a trained recommender."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg


@dataclass(frozen=True)
class Recommend:
    """Print the items that a user would rate highest, the best first, or the ratings of items that are named."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train recommender or Recommender.save wrote."""

    user: Annotated[str | None, arg(metavar="ID", help_behavior_hint="")] = None
    """A user with training ratings."""

    ratings: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """A new user's ratings: rows of item and rating. Nothing is trained."""

    number: Annotated[int, arg(aliases=["-n"])] = 10
    """Print so many items."""

    items: Annotated[tuple[str, ...], arg(metavar="ID...", help_behavior_hint="")] = ()
    """Say what the user would give these instead."""

    seen: Annotated[bool, FlagCreatePairsOff] = False
    """List also what the user has rated."""

    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the run's own)")] = None
    """Where the ratings of the run are now, if they were moved."""

    checkpoint: Annotated[str, arg(metavar="best|last|STEP")] = "best"
    """Which weights."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""

    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print one JSON object instead of lines."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the folder or the ratings cannot be used.
    """
    options = tyro.cli(Recommend, args=argv, prog="overnight recommend")
    from overnight.errors import UserError
    from overnight.recommend.estimator import Recommender
    from overnight.recommend.given import read_user

    if (options.user is None) == (options.ratings is None):
        raise UserError("Whom to recommend to is not clear.", "Give either --user ID or --ratings FILE.")
    loaded = Recommender.load(options.run, data=options.data, checkpoint=options.checkpoint, device=options.device)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found: list[tuple[Any, float]]
        if options.ratings is not None:
            new = loaded.fold_in(read_user(options.ratings))
            if options.items:
                found = list(zip(options.items, new.predict(options.items).tolist(), strict=True))
            else:
                found = list(new.recommend(options.number, exclude_seen=not options.seen))
        elif options.items:
            said = loaded.predict([options.user] * len(options.items), options.items)
            found = list(zip(options.items, said.tolist(), strict=True))
        else:
            found = list(loaded.recommend(options.user, options.number, exclude_seen=not options.seen))
    told = [str(note.message) for note in notes]
    if options.json:
        import orjson

        items = [{"item": item, "rating": rating} for item, rating in found]
        print(orjson.dumps({"user": options.user, "items": items, "notes": told}, option=orjson.OPT_INDENT_2).decode())
        return 0
    for note in told:
        print(f"overnight: {note}", file=sys.stderr)
    for item, rating in found:
        print(f"{rating:.3f}\t{item}")
    return 0
