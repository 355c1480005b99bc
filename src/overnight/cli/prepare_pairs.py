"""`overnight prepare --pairs`: two texts, line for line translations of each other → a corpus of pairs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from overnight.cli.preparing import SourcesAndFolder, run_preparation, say

if TYPE_CHECKING:
    from overnight.data.ingest import Progress


@dataclass(frozen=True)
class PairArguments(SourcesAndFolder):
    """Turn two text files, sentences and their translations, into a corpus of pairs: two vocabularies and ids.

    Line n of one file is the translation of line n of the other; both may be .gz or .zst. Pairs with an empty side are
    left out and counted. Words are what stands between white space; the text is taken as it is.
    """

    src: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE TARGET")] = ()
    """The training split: sentences, and their translations."""

    valid: Annotated[tuple[str, ...], arg(metavar="SOURCE TARGET")] = ()
    """The two files of the valid split."""

    test: Annotated[tuple[str, ...], arg(metavar="SOURCE TARGET")] = ()
    """The two files of the test split."""

    vocab_size: int | None = None
    """Keep the most frequent words of each language, so many with <unk>, <eos> and <bos>."""

    min_count: int = 1
    """Keep only words that stand so often in the training split."""

    bpe: int | None = None
    """Pieces of words instead: byte-pair encoding with so many pieces; needs the extra text."""

    joint: bool = False
    """One vocabulary for both languages."""

    max_length: int = 50
    """Leave training pairs with a longer side out, and count them."""

    shard_mb: float = 256
    """Largest shard file in megabytes."""

    force: bool = False
    """Replace the corpus in --out."""


def main(argv: list[str]) -> int:
    """Parse the arguments, prepare, and print a table.

    Args:
        argv: after the subcommand's name, without ``--pairs``.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        UserError: whatever the user can put right.
    """
    arguments = tyro.cli(FlagCreatePairsOff[PairArguments], args=argv, prog="overnight prepare --pairs")
    arguments.check_out()
    from overnight.data.pairs.preparation import prepare_pairs
    from overnight.data.pairs.settings import PairSettings

    names = ("vocab_size", "min_count", "bpe", "joint", "max_length", "shard_mb")
    settings = PairSettings(**{name: getattr(arguments, name) for name in names})
    return run_preparation(
        partial(
            prepare_pairs,
            arguments.src,
            arguments.out,
            settings,
            valid=arguments.valid,
            test=arguments.test,
            force=arguments.force,
            notify=say,
        ),
        partial(_print_table, arguments.out),
        f"{arguments.out} is not made.",
    )


def _print_table(out: str, manifest: dict[str, Any], progress: Progress, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "pairs", "source words", "unknown", "target words", "unknown"):
        table.add_column(name, justify="right" if name else "left")
    for split, about in manifest["splits"].items():
        cells = []
        for side in ("source", "target"):
            words, unknown = about[f"{side}_words"], about[f"{side}_unk"]
            cells += [f"{words:,}", f"{unknown / words:.2%}" if words else ""]
        table.add_row(split, f"{about['documents']:,}", *cells)
    Console(highlight=False, soft_wrap=True).print(table)
    vocabulary, counts = manifest["vocabulary"], manifest["counts"]
    sizes = " and ".join(f"{vocabulary[side]['size']:,}" for side in ("source", "target"))
    sizes = f"{vocabulary['source']['size']:,} for both languages" if vocabulary["joint"] else sizes
    unit = "pieces" if vocabulary["source"]["pieces_sha256"] else "words"
    print(
        f"{unit} in the vocabulary: {sizes}; {counts['empty']:,} pairs with an empty side and {counts['too_long']:,} "
        f"too long for training were left out; {seconds:.1f} s"
    )
    print(f"Next: overnight train gnmt --data {shlex.quote(out)}")
