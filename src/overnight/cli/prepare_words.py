"""`overnight prepare --words`: text, or ids that someone made, → a corpus of words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from overnight.cli.preparing import SourcesAndFolder, run_preparation, say

if TYPE_CHECKING:
    from overnight.data.ingest import Progress
    from overnight.data.words.settings import WordSettings


@dataclass(frozen=True)
class WordArguments(SourcesAndFolder):
    """Turn text, a sentence a line, into a corpus of words: a vocabulary and ids.

    Words are what stands between white space. The vocabulary is counted on the training split, ids fall in frequency.
    A folder in the layout of One Billion Word, or with files named for train, valid and test such as ptb.train.txt or
    wsj.test.ids.gz, is split so. Formats as without --words; a name that tells none is text; .ids are lines of ids.
    """

    vocab_size: int | None = None
    """Keep the most frequent words, so many with <unk> and <eos>. For ids: they must be below it."""

    min_count: int = 1
    """Keep only words that stand so often in the training split."""

    vocab: Annotated[str, arg(metavar="FILE")] = ""
    """Take this vocabulary as it is: a word a line, or a word and its count."""

    unk: Annotated[str, arg(metavar="WORD")] = ""
    """The word that stands for all others: <unk>, or <UNK> in a vocabulary file."""

    eos: Annotated[str, arg(metavar="WORD")] = ""
    """The word added after each sentence: <eos>, or in a vocabulary file </s>, <S> or </S>. none: nothing is added."""

    empty_lines: Literal["drop", "eos"] = "drop"
    """Lines without words: leave them out and count them, or make each an <eos>."""

    ids: bool = False
    """The sources are lines of ids, as .ids files are."""

    unk_id: int = 0
    """In files of ids: stands for all other words."""

    bos_id: int = 1
    """In files of ids: lines may begin with it, any number of times. It is not kept."""

    eos_id: int = 2
    """In files of ids: every line ends with it."""

    text_field: Annotated[str, arg(metavar="NAME")] = ""
    """Field or column that holds the text; guessed where one field holds strings."""

    format: Annotated[str, arg(metavar="NAME")] = ""
    """Read every source as this format whatever its name says: txt, json, jsonl, csv, tsv, parquet; jsonl.gz."""

    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether double quotes enclose fields; auto: in CSV yes, in TSV no."""

    split: Annotated[str, arg(metavar="A,B,C")] = ""
    """Shares of train, valid and test by a hash of each sentence, for splits that have no files of their own: 98,1,1 if
    none has, else all train."""

    valid: Annotated[tuple[str, ...], arg(metavar="FILE...")] = ()
    """Sources that make up the valid split."""

    test: Annotated[tuple[str, ...], arg(metavar="FILE...")] = ()
    """Sources that make up the test split."""

    on_error: Literal["stop", "skip"] = "stop"
    """At a line that is not UTF-8 or a malformed record stop, or leave it out, count and list it."""

    shard_mb: float = 256
    """Largest shard file in megabytes."""

    max_document_mb: float = 16
    """Longest line or record in megabytes; a longer one is malformed."""

    force: bool = False
    """Replace the corpus or interrupted run in --out."""


def main(argv: list[str]) -> int:
    """Parse the arguments, prepare, and print a table.

    Args:
        argv: after the subcommand's name, without ``--words``.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        UserError: whatever the user can put right.
    """
    arguments = tyro.cli(FlagCreatePairsOff[WordArguments], args=argv, prog="overnight prepare --words")
    arguments.check()
    from overnight.data.words.preparation import prepare_words

    return run_preparation(
        partial(
            prepare_words,
            arguments.src,
            arguments.out,
            settings_of(arguments),
            format=arguments.format or None,
            valid=arguments.valid,
            test=arguments.test,
            force=arguments.force,
            notify=say,
        ),
        partial(_print_table, arguments),
        f"{arguments.out} is not finished; the same command goes on there.",
    )


def settings_of(arguments: WordArguments) -> WordSettings:
    """The settings that the arguments stand for."""
    from overnight.cli.prepare import parse_split
    from overnight.data.ingest import PrepareSettings
    from overnight.data.words.settings import WordSettings

    text = PrepareSettings(
        text_field=arguments.text_field or None,
        document="line",
        quoting=arguments.quoting,
        on_error=arguments.on_error,
        shard_mb=arguments.shard_mb,
        max_document_mb=arguments.max_document_mb,
    )
    return WordSettings(
        vocab_size=arguments.vocab_size,
        min_count=arguments.min_count,
        vocab_file=arguments.vocab or None,
        unk=arguments.unk or None,
        eos=arguments.eos or None,
        empty_lines=arguments.empty_lines,
        ids=arguments.ids,
        unk_id=arguments.unk_id,
        bos_id=arguments.bos_id,
        eos_id=arguments.eos_id,
        split=parse_split(arguments.split) if arguments.split else None,
        text=text,
    )


def _print_table(arguments: WordArguments, manifest: dict[str, Any], progress: Progress, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "sentences", "words", "unknown", "shards"):
        table.add_column(name, justify="right" if name else "left")
    for split, about in manifest["splits"].items():
        unknown = f"{about['unk'] / about['words']:.2%}" if about["words"] else ""
        shards = str(len(about["shards"]))
        table.add_row(split, f"{about['documents']:,}", f"{about['words']:,}", unknown, shards)
    Console(highlight=False, soft_wrap=True).print(table)
    vocabulary, counts = manifest["vocabulary"], manifest["counts"]
    end = "nothing ends sentences" if vocabulary["eos"] is None else "one of them ends each sentence and is counted"
    print(
        f"{vocabulary['size']:,} words in the vocabulary; {end}; {counts['empty']:,} empty lines, "
        f"{counts['skipped']:,} malformed lines or records skipped"
    )
    for error in manifest["errors"][:10]:
        place = error["path"] if error["line"] is None else f"{error['path']}:{error['line']}"
        print(f"  skipped {place}: {error['reason']}")
    words = sum(about["words"] for about in manifest["splits"].values())
    if progress.bytes_done > progress.bytes_resumed:
        print(f"{words / 1e6:,.1f} million words in {seconds:.1f} s, {words / 1e6 / seconds:,.1f} million/s")
    print(f"Next: overnight train word-lm --data {shlex.quote(arguments.out)}")
