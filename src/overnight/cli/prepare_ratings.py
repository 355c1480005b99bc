"""`overnight prepare --ratings`: files of ratings → a corpus of ratings."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from overnight.cli.preparing import SourcesAndFolder, run_preparation, say
from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.data.ingest import Progress


@dataclass(frozen=True)
class RatingArguments(SourcesAndFolder):
    """Turn ratings into a corpus of ratings: split, by user, on disk, for sets that are larger than memory.

    Reads csv, tsv and parquet with a header, lines of user, item, rating and time without one, MovieLens and Netflix
    Prize folders, and folders of text files whose names end in train, valid and test.
    """

    src: Annotated[Positional[tuple[str, ...]], arg(metavar="SRC")] = ()
    """A file or a folder."""

    valid: Annotated[str, arg(metavar="FILE")] = ""
    """File of the valid split."""

    test: Annotated[str, arg(metavar="FILE")] = ""
    """File of the test split."""

    columns: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """Columns of user, item, rating and time, where they cannot be guessed."""

    duplicates: Literal["error", "last", "mean"] = "error"
    """Where a user rated an item more than once: stop, keep the last, or take the mean."""

    scale: tuple[float, float] | None = None
    """Lowest and highest rating there may be."""

    split: Literal["random", "time", "leave-last"] = "random"
    """Hold out ratings by a coin, those rated last, or each user's last."""

    held_out: Annotated[tuple[float, float] | None, arg(metavar="VALID TEST")] = None
    """Shares of valid and test (0 and 0.1); with leave-last numbers of each user's ratings (0 and 1)."""

    seed: int = 0
    """Of the coins."""

    force: bool = False
    """Replace the corpus in --out."""


def main(argv: list[str]) -> int:
    """Parse the arguments, prepare, and print what was made.

    Args:
        argv: after the subcommand's name, without ``--ratings``.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        UserError: whatever the user can put right.
    """
    arguments = tyro.cli(FlagCreatePairsOff[RatingArguments], args=argv, prog="overnight prepare --ratings")
    if len(arguments.src) != 1:
        raise UserError(f"{len(arguments.src)} sources were given.", "Name one file or folder of ratings.")
    arguments.check_out()
    from overnight.data.ratings.preparation import prepare_ratings
    from overnight.data.ratings.settings import RatingSettings

    valid, test = arguments.held_out or (0.0, 1 if arguments.split == "leave-last" else 0.1)
    settings = RatingSettings(
        columns=arguments.columns,
        duplicates=arguments.duplicates,
        scale=arguments.scale,
        split=arguments.split,
        valid=valid,
        test=test,
        seed=arguments.seed,
    )
    return run_preparation(
        partial(
            prepare_ratings,
            arguments.src[0],
            arguments.out,
            settings,
            valid=arguments.valid,
            test=arguments.test,
            force=arguments.force,
            notify=say,
        ),
        partial(_print, arguments.out),
        f"{arguments.out} is not made.",
    )


def _print(out: str, manifest: dict[str, Any], progress: Progress, seconds: float) -> None:
    print(f"{manifest['users']:,} users, {manifest['items']:,} items; {seconds:.1f} s")
    for split, about in manifest["splits"].items():
        dropped = manifest["dropped"].get(split, {"ratings": 0})
        cold = ""
        if dropped["ratings"]:
            who = f"{dropped['cold_users']:,} of users and {dropped['cold_items']:,} of items"
            cold = f"; {dropped['ratings']:,} left out ({who} that training does not have)"
        print(f"{split}: {about['ratings']:,} ratings{cold}")
    print(f"Next: overnight train recommender --data {shlex.quote(out)}")
