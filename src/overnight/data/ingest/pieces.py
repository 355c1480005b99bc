"""The list of sources as pieces of work of bounded size: the unit of sharing out and of going on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from overnight.data.ingest.parquet_rows import open_parquet
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import STDIN, Source
from overnight.errors import UserError

PIECE_BYTES = 16_000_000
_SMALLEST = 64_000


@dataclass(frozen=True)
class Segment:
    """A source or part of one.

    Args:
        source: index into the list of sources.
        start: first byte of the part (first row group in Parquet files).
        stop: byte or row group after it; None for the whole source.
        bytes: its share of the file's size.
    """

    source: int
    start: int
    stop: int | None
    bytes: int


Piece = tuple[Segment, ...]


def plan_pieces(
    sources: Sequence[Source],
    settings: PrepareSettings,
    row_groups: Callable[[Source], Sequence[int]],
    piece_bytes: int = PIECE_BYTES,
) -> list[Piece]:
    """Cut large files and gather small ones, in reading order; the same for any number of workers.

    Files whose parts begin at line starts (uncompressed JSON lines, text read by line) are cut at bytes, Parquet files
    at row groups; every other file is whole.

    Args:
        sources: in reading order.
        settings: ``document`` decides whether text files can be cut.
        row_groups: compressed bytes of each row group of a Parquet file.
        piece_bytes: wanted size.

    >>> a, b = Source("a.jsonl", "jsonl", "", 25, 0), Source("b.txt", "txt", "", 3, 0)
    >>> [[(s.source, s.start, s.stop) for s in p] for p in plan_pieces([a, b], PrepareSettings(), lambda s: [], 10)]
    [[(0, 0, 8)], [(0, 8, 16)], [(0, 16, 25)], [(1, 0, None)]]
    """
    pieces: list[Piece] = []
    gathered: list[Segment] = []
    size = 0

    def close() -> None:
        nonlocal gathered, size
        if gathered:
            pieces.append(tuple(gathered))
        gathered, size = [], 0

    for index, source in enumerate(sources):
        parts = _cut(index, source, settings, row_groups, piece_bytes) if source.bytes > piece_bytes else []
        if len(parts) > 1:
            close()
            pieces += [(part,) for part in parts]
            continue
        gathered.append(Segment(index, 0, None, source.bytes))
        size += source.bytes
        if size >= piece_bytes:
            close()
    close()
    return pieces


def _cut(
    index: int, source: Source, settings: PrepareSettings, row_groups: Callable[[Source], Sequence[int]], size: int
) -> list[Segment]:
    if source.compression or source.path == STDIN:
        return []
    if source.format == "jsonl" or (source.format == "txt" and settings.document == "line"):
        count = -(-source.bytes // size)
        edges = [source.bytes * i // count for i in range(count + 1)]
        return [Segment(index, a, b, b - a) for a, b in pairwise(edges)]
    if source.format != "parquet":
        return []
    parts: list[Segment] = []
    groups = row_groups(source)
    first = held = 0
    for number, group in enumerate(groups):
        held += group
        if held >= size or number == len(groups) - 1:
            parts.append(Segment(index, first, number + 1, held))
            first, held = number + 1, 0
    return parts


def parquet_row_groups(source: Source) -> list[int]:
    """Compressed bytes of each row group.

    Raises:
        BrokenInputError: it is damaged or not Parquet.
    """
    with open_parquet(source) as file:
        meta = file.metadata
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        return [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]


def parse_part(text: str) -> tuple[int, int]:
    """Part and number of parts from ``3/16``.

    Raises:
        UserError: not of that form, or out of range.

    >>> parse_part("3/16")
    (3, 16)
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UserError(f"part is {text!r}.", "Give the part and the number of parts, from 1/16 to 16/16.")
    return int(first), int(second)


def part_piece_bytes(sources: Sequence[Source], parts: int) -> int:
    """A size of pieces small enough that ``parts`` shares come out about even."""
    return max(_SMALLEST, min(PIECE_BYTES, sum(s.bytes for s in sources) // (4 * parts)))


def take_part(pieces: Sequence[Piece], part: tuple[int, int]) -> list[Piece]:
    """The pieces of one part: neighbours, so that the parts one after another keep the reading order.

    A piece belongs to the part in whose share of the bytes its middle lies.

    Args:
        pieces: all of them.
        part: (3, 16) is the third of sixteen.

    >>> pieces = [(Segment(i, 0, None, 5),) for i in range(6)]
    >>> [[s.source for p in take_part(pieces, (i, 4)) for s in p] for i in (1, 2, 3, 4)]
    [[0], [1, 2], [3], [4, 5]]
    """
    sizes = [max(1, sum(segment.bytes for segment in piece)) for piece in pieces]
    total = sum(sizes)
    taken = []
    before = 0
    for piece, size in zip(pieces, sizes, strict=True):
        if (2 * before + size) * part[1] // (2 * total) == part[0] - 1:
            taken.append(piece)
        before += size
    return taken
