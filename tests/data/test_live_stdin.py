"""Standard input that is still open: what has arrived is answered, whatever the format."""

import gzip
import io
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

READ = """
import json, sys
from overnight.data.labelled import find_source, read_records
for record in read_records(find_source("-", sys.argv[1]), text_field="text", labelled=False):
    print(json.dumps(record.text), flush=True)
"""


class Pipes:
    """A process with its standard input and output."""

    def __init__(self, argv: list[str]) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def give(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def lines(self, count: int, seconds: float = 60) -> list[bytes]:
        """The next so many lines of output, without its standard input ended."""
        assert self.process.stdout is not None
        found, end = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while found.count(b"\n") < count:
                assert ready.select(max(0.0, end - time.monotonic())), f"only {found!r} came in {seconds} s"
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                assert data, self.process.communicate()[1].decode()
                found += data
        return found.splitlines()


@contextmanager
def pipes(*argv: str) -> Iterator[Pipes]:
    opened = Pipes([sys.executable, *argv])
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.communicate()


def gzipped(*parts: bytes) -> list[bytes]:
    """Parts of one gzip stream, each with all that was written before."""
    out, pieces = io.BytesIO(), []
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        for part in parts:
            file.write(part)
            file.flush()
            pieces.append(out.getvalue())
            out.seek(0)
            out.truncate()
    return [*pieces, out.getvalue()]


def zstd(*parts: bytes) -> list[bytes]:
    packer = pytest.importorskip("zstandard").ZstdCompressor()
    return [*map(packer.compress, parts), b""]


LINES = (b'{"text": "one"}\n', b'{"text": "two"}\n', b"")


@pytest.mark.parametrize(
    ("format", "parts"),
    [
        ("txt", (b"one\n", b"two\n", b"")),
        ("csv", (b'text,n\n"one",1\n', b"two,2\n", b"")),
        ("tsv", (b"text\tn\none\t1\n", b"two\t2\n", b"")),
        ("jsonl", LINES),
        ("json", (b'[{"text": "one"}', b',\n{"text": "two"}', b"]")),
        ("jsonl.gz", gzipped(*LINES[:2])),
        ("csv.gz", gzipped(b"text\none\n", b"two\n")),
        ("jsonl.zst", None),
    ],
)
def test_what_has_arrived_is_answered(format: str, parts: tuple[bytes, ...] | None) -> None:
    first, second, end = parts or zstd(*LINES[:2])
    with pipes("-c", READ, format) as reader:
        reader.give(first)
        assert reader.lines(1) == [b'"one"']
        reader.give(second)
        assert reader.lines(1) == [b'"two"']
        out, err = reader.process.communicate(end, timeout=60)
        assert (out, err, reader.process.returncode) == (b"", b"", 0)


@pytest.mark.parametrize("format", ["txt", "jsonl", "json", "csv"])
def test_a_long_text_in_many_pieces_comes_whole_and_quickly(format: str) -> None:
    long = "é" * 4_000_000
    data = {"txt": f"{long}\nlast", "csv": f"text\n{long}\nlast"}.get(
        format, "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in (long, "last"))
    )
    done = subprocess.run(
        [sys.executable, "-c", READ, format], input=data.encode(), capture_output=True, timeout=60, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [long, "last"]


def test_a_cut_off_stream_is_told() -> None:
    whole = gzip.compress(LINES[0] * 50)
    done = subprocess.run(
        [sys.executable, "-c", READ, "jsonl.gz"], input=whole[:-9], capture_output=True, timeout=60, check=False
    )
    assert done.returncode
    assert b"the compressed stream ends too early; the file is truncated" in done.stderr
