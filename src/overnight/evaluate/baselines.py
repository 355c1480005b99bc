"""What general compressors make of the held-out bytes: the figures to beat."""

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from overnight.data.corpus import ByteStream
from overnight.errors import UserError

CAP_BYTES = 64_000_000
"""At most so many bytes from the beginning are measured; then the names say so."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Baseline:
    """Bits per byte by another method; ``bytes`` says of how many."""

    name: str
    bits_per_byte: float
    bytes: int


def baselines(stream: ByteStream, cap_bytes: int = CAP_BYTES) -> list[Baseline]:
    """Order-0 entropy, ``gzip -9`` and ``xz -9e`` of a stream, in constant memory.

    Order-0 entropy is -Σ p log₂ p over the byte frequencies of these very bytes, so a code that had to send the
    frequencies too would need a little more. Compressed sizes include the file headers. Where Python was built without
    lzma, ``xz -9e`` is left out.

    Args:
        stream: the held-out bytes.
        cap_bytes: measure at most so many from the beginning.

    Raises:
        UserError: if the stream is empty.
    """
    if not len(stream):
        raise UserError("There are no held-out bytes to compress.", "Choose another split, or hold out more text.")
    size = min(len(stream), cap_bytes)
    note = f" (first {size / 1e6:g} MB)" if size < len(stream) else ""
    counts = np.zeros(256, dtype=np.int64)
    compressors = {"gzip -9": _Compressed(zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)), "xz -9e": _xz(size)}
    for start in range(0, size, _CHUNK_BYTES):
        chunk = stream.read(start, min(_CHUNK_BYTES, size - start))
        counts += np.bincount(chunk, minlength=256)
        for compressor in filter(None, compressors.values()):
            compressor.read(chunk.tobytes())
    share = counts[counts > 0] / size
    entropy = abs(float((share * np.log2(share)).sum()))
    packed = {name: compressor.size() * 8 / size for name, compressor in compressors.items() if compressor is not None}
    values = {"order-0 entropy": entropy, **packed}
    return [Baseline(name + note, value, size) for name, value in values.items()]


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Compressed:
    """How large a stream becomes; what it becomes is not kept."""

    def __init__(self, packer: _Packer) -> None:
        self._packer, self._size = packer, 0

    def read(self, chunk: bytes) -> None:
        self._size += len(self._packer.compress(chunk))

    def size(self) -> int:
        return self._size + len(self._packer.flush())


def _xz(size: int) -> _Compressed | None:
    try:
        import lzma
    except ImportError:
        return None
    # -9's dictionary is 64 MiB and takes ten times that in memory; one that holds all the bytes gives the same size.
    dictionary = min(64 << 20, max(4096, 1 << (size - 1).bit_length()))
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return _Compressed(lzma.LZMACompressor(lzma.FORMAT_XZ, filters=chain))
