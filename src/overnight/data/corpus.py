"""Reading a corpus of bytes (docs/corpus-format.md)."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from overnight.data.sharded import FORMAT, SPLITS, Offsets, Shard, ShardedCorpus, TokenStream

__all__ = ["FORMAT", "SPLITS", "ByteStream", "Bytes", "Corpus", "Offsets", "Shard"]

Bytes = npt.NDArray[np.uint8]


class ByteStream(TokenStream):
    """The shards of one split as one long run of bytes.

    Example: ``stream.read(start, 100)`` gives a uint8 array, across shard edges too.
    """

    unit: ClassVar[str] = "bytes"

    def read(self, start: int, length: int) -> Bytes:
        """Bytes ``start`` to ``start + length``; the end of the stream goes on at its beginning."""
        return super().read(start, length)


class Corpus(ShardedCorpus):
    """A corpus folder made by ``overnight prepare``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus, is of another format or kind, or a shard is missing or of another size.
    """

    kind: ClassVar[str] = "bytes"

    def split(self, name: str) -> ByteStream:
        """The bytes of ``train``, ``valid`` or ``test``; it may be empty."""
        return ByteStream(self.shards(name))
