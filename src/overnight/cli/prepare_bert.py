"""`overnight prepare --bert`: text → a corpus of sentences of word pieces."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from overnight.cli.prepare import Arguments, settings_of
from overnight.cli.preparing import run_preparation, say
from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.data.ingest import Progress


@dataclass(frozen=True)
class BertArguments(Arguments):
    """Turn text files into a corpus for BERT: word pieces learned on it, documents, and their sentences as ids.

    Documents, splits and cleaning are as overnight prepare has them; nothing is put around documents. The order of
    documents matters little, that of sentences in a document is what the model learns from.
    """

    framing: Literal["none"] = "none"
    """Nothing is put around documents."""

    vocab_size: int = 30_522
    """Word pieces to learn, marks included."""

    cased: bool = False
    """Keep case and accents."""

    sentences: Literal["auto", "line"] = "auto"
    """auto: sentences end at . ! ? before a capital and at line breaks; line: a sentence a line."""

    tokenizer: Annotated[str, arg(metavar="FILE")] = ""
    """A tokenizer.json with word pieces, instead of learning one."""


def main(argv: list[str]) -> int:
    """Parse the arguments, prepare, and print a table.

    Args:
        argv: after the subcommand's name, without ``--bert``.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        UserError: whatever the user can put right.
    """
    arguments = tyro.cli(FlagCreatePairsOff[BertArguments], args=argv, prog="overnight prepare --bert")
    arguments.check()
    for name in ("part", "join"):
        if getattr(arguments, name):
            raise UserError(f"--{name} is for corpora of bytes.", "Leave it out.")
    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}.", "Give 1 or more.")
    from overnight.data.masked.preparation import prepare_masked
    from overnight.data.masked.settings import MaskedSettings

    settings = MaskedSettings(
        settings_of(arguments),
        vocab_size=arguments.vocab_size,
        lowercase=not arguments.cased,
        sentences=arguments.sentences,
        tokenizer=arguments.tokenizer or None,
    )
    return run_preparation(
        partial(
            prepare_masked,
            arguments.src,
            arguments.out,
            settings,
            format=arguments.format or None,
            valid=arguments.valid,
            test=arguments.test,
            workers=arguments.workers,
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
    for name in ("", "documents", "sentences", "word pieces", "unknown"):
        table.add_column(name, justify="right" if name else "left")
    for split, about in manifest["splits"].items():
        unknown = f"{about['unknown'] / about['tokens']:.2%}" if about["tokens"] else ""
        cells = (f"{about[name]:,}" for name in ("documents", "sentences", "tokens"))
        table.add_row(split, *cells, unknown)
    Console(highlight=False, soft_wrap=True).print(table)
    counts = manifest["counts"]
    print(
        f"{manifest['vocabulary']['size']:,} word pieces; {counts['skipped']:,} malformed records skipped, "
        f"{counts['duplicates']:,} duplicates dropped, {counts['empty']:,} empty documents dropped; {seconds:.1f} s"
    )
    print(f"Next: overnight train bert --data {shlex.quote(out)}")
