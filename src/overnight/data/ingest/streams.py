"""Bytes of a source: part of a file, decompressed, or standard input, always a bounded chunk at a time."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from overnight.data.ingest.sources import STDIN, Source
from overnight.errors import UserError

CHUNK = 1 << 20
# Frames that ask for a larger window would need more memory than a whole run is allowed.
ZSTD_WINDOW_LOG = 27


class BrokenInputError(Exception):
    """The rest of a file cannot be read: a truncated or corrupt stream, or text without a way to go on."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Stream(io.RawIOBase):
    """A readable whose errors are ``BrokenInputError`` or ``UserError``."""

    def __init__(self, source: Source, inner: Any, raw: IO[bytes] | None, stop: int | None) -> None:
        self._source, self._inner, self._raw, self._stop = source, inner, raw, stop
        self._first = raw.tell() if raw is not None else 0

    def readable(self) -> bool:
        return True

    def consumed(self) -> int:
        """Bytes of the file on disk that were read so far."""
        return self._raw.tell() - self._first if self._raw is not None and not self._raw.closed else 0

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        if self._stop is not None and self._raw is not None:
            left = max(0, self._stop - self._raw.tell())
            size = left if size < 0 else min(size, left)
        try:
            data: bytes = self._inner.read(size)
        except EOFError:
            raise BrokenInputError("the compressed stream ends too early; the file is truncated") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BrokenInputError(f"the gzip stream is damaged ({error})") from None
        except OSError as error:
            raise UserError(
                f"{self._source.path} cannot be read: {error.strerror or error}.", "Check the file and its disk."
            ) from None
        return data


@contextmanager
def open_stream(source: Source, start: int = 0, stop: int | None = None, stdin: Any = None) -> Iterator[Stream]:
    """Open a source for reading.

    Args:
        source: the file.
        start: first byte of the part wanted (uncompressed files only), moved on to the next start of a line.
        stop: byte after the part wanted, moved likewise, so that neighbouring parts share no line and lose none.
        stdin: what to read for "-"; None is the process's standard input, of which ``read`` gives what has arrived
            without waiting for more.

    Raises:
        UserError: the file cannot be opened or its decompressor is not installed.
        BrokenInputError: from ``read``, where the stream is damaged.
    """
    try:
        raw = (stdin or _unbuffered_stdin()) if source.path == STDIN else open(source.path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{source.path} cannot be read: {error.strerror}.", "Check the path.") from None
    seekable = None if source.path == STDIN else raw
    inner: Any = raw
    try:
        if start or stop is not None:
            if stop is not None:
                stop = _line_start(raw, stop)
            raw.seek(_line_start(raw, start))
        if source.compression == "gz":
            inner = gzip.GzipFile(fileobj=raw, mode="rb")
        elif source.compression == "zst":
            inner = _zstd_reader(source, raw)
        if source.path == STDIN and stdin is None and source.compression:
            inner = _Arrived(inner)
        yield Stream(source, inner, seekable, stop)
    finally:
        if seekable is not None:
            seekable.close()


def _unbuffered_stdin() -> Any:
    # Its buffer waits until a chunk is full, and a thread that is blocked in it aborts the process when that ends.
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


def _line_start(raw: IO[bytes], offset: int) -> int:
    """Where the first line that begins at or after ``offset`` begins, or the end of the file."""
    if offset == 0:
        return 0
    # One byte back: a line that begins right at the offset belongs to the part that begins there.
    position = offset - 1
    raw.seek(position)
    while block := raw.read(1 << 16):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position


def _zstd_reader(source: Source, raw: IO[bytes]) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return _Zstd(lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, raw)
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{source.path} is compressed with zstd, which needs the package zstandard on this Python.",
            "Install it: pip install 'overnight[zstd]'.",
        ) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << ZSTD_WINDOW_LOG)
    return _Zstd(decompressor.decompressobj, zstandard.ZstdError, raw)


class _Arrived:
    """A decompressor whose ``read`` gives what it has, as that of a pipe does, without waiting for ``size`` bytes."""

    def __init__(self, inner: Any) -> None:
        self.read = inner.read1


class _Zstd:
    """Frames one after another; a frame that does not end is an error, which zstandard's own reader hides."""

    def __init__(self, new_frame: Any, error: type[Exception], raw: IO[bytes]) -> None:
        self._new_frame, self._error, self._raw = new_frame, error, raw
        self._frame: Any = None
        self._input = b""
        self._output = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._output) < size and self._step():
            pass
        return self.read1(size)

    def read1(self, size: int) -> bytes:
        while not self._output and self._step():
            pass
        data = bytes(self._output[:size])
        del self._output[:size]
        return data

    def _step(self) -> bool:
        if not self._input:
            # Small pieces: four bytes can stand for 128 KiB, and nothing else bounds what one call returns.
            self._input = self._raw.read(1 << 12)
        if not self._input:
            if self._frame is not None:
                raise EOFError
            return False
        if self._frame is None:
            self._frame = self._new_frame()
        try:
            self._output += self._frame.decompress(self._input)
        except self._error as error:
            raise BrokenInputError(f"the zstd stream is damaged ({error})") from None
        self._input = b""
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return True
