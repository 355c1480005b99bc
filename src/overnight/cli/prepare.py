"""`overnight prepare`: text files → a corpus folder, and the parts of one joined."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from overnight.cli.preparing import SourcesAndFolder, run_preparation, say
from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.data.ingest import PrepareSettings, Progress


@dataclass(frozen=True)
class Arguments(SourcesAndFolder):
    """Turn text files into a corpus that `overnight train` reads.

    Reads .txt .json .jsonl .ndjson .csv .tsv .parquet, each also .gz or .zst. An interrupted run leaves nothing that
    looks finished; the same command goes on where it stopped. With --words: a vocabulary and ids instead of bytes;
    with --pairs: texts and their translations; with --bert: word pieces and sentences; with --ratings: ratings.
    overnight prepare --words --help, --pairs --help, --bert --help and --ratings --help say more.
    """

    src: Annotated[Positional[tuple[str, ...]], arg(metavar="SRC...")] = ()
    """Files, folders, globs, or - for standard input (then --format is needed)."""

    text_field: Annotated[str, arg(metavar="NAME")] = ""
    """Field or column that holds the text; guessed where one field holds strings."""

    format: Annotated[str, arg(metavar="NAME")] = ""
    """Read every source as this format whatever its name says: txt, json, jsonl, csv, tsv, parquet; jsonl.gz."""

    document: Literal["auto", "file", "line", "blank-line"] = "auto"
    """What one document of a text file is; blank-line: each block between blank lines; auto: that for a single
    text file, which would otherwise be one document, all of it in one split; else the file."""

    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether double quotes enclose fields; auto: in CSV yes, in TSV no."""

    strip_tags: bool = False
    """Replace HTML tags by spaces."""

    unescape_html: bool = False
    """Replace HTML entities such as &amp; by their characters."""

    collapse_whitespace: bool = False
    """Make one space of every run of white space."""

    framing: Literal["newline", "none", "reviews"] = "newline"
    """Bytes around each document; reviews: a line break and a space before, inner line breaks as spaces, a space
    after, entities replaced, as in the sentiment-neuron paper."""

    split: Annotated[str, arg(metavar="A,B,C")] = "98,1,1"
    """Shares of train, valid and test; a document's split is decided by a hash of its bytes."""

    valid: Annotated[tuple[str, ...], arg(metavar="FILE...")] = ()
    """Sources that make up the valid split, instead of a share by hash."""

    test: Annotated[tuple[str, ...], arg(metavar="FILE...")] = ()
    """Sources that make up the test split, instead of a share by hash."""

    dedup: bool = False
    """Drop exact duplicates, keeping the first."""

    on_error: Literal["stop", "skip"] = "stop"
    """At a malformed record stop, or leave it out, count and list it."""

    shard_mb: float = 256
    """Largest shard file in megabytes."""

    max_document_mb: float = 16
    """Longest document in megabytes: longer text files are cut, longer records are malformed."""

    workers: int = 1
    """Processes that read and clean; the corpus is the same for any number."""

    part: Annotated[str, arg(metavar="I/N")] = ""
    """Prepare the I-th of N shares of the sources, for several hosts: 1/16 to 16/16."""

    join: bool = False
    """Check and join parts: SRC are their folders, or one folder that holds them."""

    force: bool = False
    """Replace the corpus or interrupted run in --out."""


def main(argv: list[str]) -> int:
    """Parse the arguments, prepare or join, and print a table.

    Args:
        argv: after the subcommand's name.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        UserError: whatever the user can put right.
    """
    if "--words" in argv:
        from overnight.cli.prepare_words import main as prepare_words

        return prepare_words([argument for argument in argv if argument != "--words"])
    if "--pairs" in argv:
        from overnight.cli.prepare_pairs import main as prepare_pairs

        return prepare_pairs([argument for argument in argv if argument != "--pairs"])
    if "--bert" in argv:
        from overnight.cli.prepare_bert import main as prepare_bert

        return prepare_bert([argument for argument in argv if argument != "--bert"])
    if "--ratings" in argv:
        from overnight.cli.prepare_ratings import main as prepare_ratings

        return prepare_ratings([argument for argument in argv if argument != "--ratings"])
    arguments = tyro.cli(FlagCreatePairsOff[Arguments], args=argv, prog="overnight prepare")
    arguments.check("Name files, folders or globs, or - for standard input.")
    begun = "finished, and nothing that looks so" if arguments.join else "finished; the same command goes on there"
    return run_preparation(
        partial(_join if arguments.join else _prepare, arguments),
        partial(_print_table, arguments.out),
        f"{arguments.out} is not {begun}.",
    )


def settings_of(arguments: Arguments) -> PrepareSettings:
    """The settings that the arguments stand for."""
    from overnight.data.ingest import PrepareSettings

    return PrepareSettings(
        text_field=arguments.text_field or None,
        document=arguments.document,
        quoting=arguments.quoting,
        strip_tags=arguments.strip_tags,
        unescape_html=arguments.unescape_html,
        collapse_whitespace=arguments.collapse_whitespace,
        framing=arguments.framing,
        split=parse_split(arguments.split),
        dedup=arguments.dedup,
        on_error=arguments.on_error,
        shard_mb=arguments.shard_mb,
        max_document_mb=arguments.max_document_mb,
    )


def parse_split(text: str) -> tuple[float, float, float]:
    """Shares of train, valid and test from ``98,1,1``.

    Raises:
        UserError: it is not three numbers.
    """
    try:
        train, valid, test = map(float, text.split(","))
    except ValueError:
        raise UserError(
            f"--split {text!r} is not three numbers.",
            "Give the shares of train, valid and test, such as 98,1,1.",
        ) from None
    return train, valid, test


def _prepare(arguments: Arguments, progress: Progress) -> dict[str, Any]:
    from overnight.data.ingest import parse_part, prepare

    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}.", "Give 1 or more.")
    return prepare(
        arguments.src,
        arguments.out,
        settings_of(arguments),
        format=arguments.format or None,
        valid=arguments.valid,
        test=arguments.test,
        workers=arguments.workers,
        part=parse_part(arguments.part) if arguments.part else None,
        force=arguments.force,
        notify=say,
        progress=progress,
    )


def _join(arguments: Arguments, progress: Progress) -> dict[str, Any]:
    from overnight.data.ingest import join_parts

    return join_parts(arguments.src, arguments.out, force=arguments.force, notify=say, progress=progress)


def _print_table(out: str, manifest: dict[str, Any], progress: Progress, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = manifest["counts"]
    table = Table(box=None, pad_edge=False)
    for name in ("", "documents", "bytes", "shards"):
        table.add_column(name, justify="right" if name else "left")
    for split, values in manifest["splits"].items():
        table.add_row(split, f"{values['documents']:,}", f"{values['bytes']:,}", str(len(values["shards"])))
    shards = sum(len(values["shards"]) for values in manifest["splits"].values())
    table.add_row("all", f"{counts['documents']:,}", f"{counts['bytes']:,}", str(shards))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    print(
        f"{counts['skipped']:,} malformed records skipped, {counts['duplicates']:,} duplicates dropped, "
        f"{counts['empty']:,} empty documents dropped, {counts['invalid_utf8']:,} with bytes that are not UTF-8 (kept)"
    )
    for error in manifest["errors"][:10]:
        place = error["path"] if error["line"] is None else f"{error['path']}:{error['line']}"
        print(f"  skipped {place}: {error['reason']}")
    if counts["skipped"] > 10:
        print(f"  more of them in {os.path.join(out, 'manifest.json')}, under errors")
    read = progress.bytes_done - progress.bytes_resumed
    if read:
        print(f"{read / 1e6:,.1f} MB of sources in {seconds:.1f} s, {read / 1e6 / seconds:,.1f} MB/s")
    if manifest["part"] is None:
        print(f"Next: overnight train byte-lm --data {shlex.quote(out)}")
    else:
        print("Next: overnight prepare --join PART... --out DIR, once all parts are there")
