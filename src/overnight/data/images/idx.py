"""The idx format of MNIST: a big-endian header, then the elements in row-major order; plain or gzipped.

Header: two zero bytes, a byte for the type of element (8: unsigned byte), a byte for the number of dimensions D, then D
sizes of four bytes (LeCun et al., the MNIST database). Images have three dimensions, labels one.
"""

import gzip
import math
import zlib
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from overnight.errors import UserError

UNSIGNED_BYTE = 8
KINDS = {1: "labels", 3: "images"}
PIECE_BYTES = 1 << 24


def read_idx(path: str | Path, dimensions: int) -> Tensor:
    """An idx file of unsigned bytes as a uint8 tensor; a name ending in ``.gz`` is gunzipped.

    Args:
        path: the file.
        dimensions: 3 for images [N, H, W], 1 for labels [N].

    Raises:
        UserError: if it cannot be read, its header is of something else, or it has fewer or more bytes than its header
            says; the file and the byte are named.

    Example:
        ``read_idx("mnist/train-images-idx3-ubyte.gz", 3).shape``
    """
    path = Path(path)
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            return _read(file, path, dimensions)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", "Name the folder that holds the idx files.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}.", "Get it again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).", "Check the file.") from None


def _read(file: BufferedReader, path: Path, dimensions: int) -> Tensor:
    what, header = KINDS.get(dimensions, f"{dimensions} dimensions"), 4 + 4 * dimensions
    head = file.read(header)
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    for place, (found, expected) in enumerate(zip(head, magic, strict=False)):
        if found != expected:
            other = KINDS.get(found) if place == 3 else None
            said = f"it holds {other}" if other else f"that of an idx file of {what} is {expected}"
            raise UserError(
                f"{path}: byte {place} is {found}; {said}.", f"Give the idx file of {what}, unsigned bytes."
            )
    if len(head) < header:
        raise UserError(f"{path} ends at byte {len(head)}, inside its header of {header} bytes.", "Get it again.")
    sizes = [int.from_bytes(head[start : start + 4], "big") for start in range(4, header, 4)]
    size, data = math.prod(sizes), bytearray()
    while len(data) <= size and (piece := file.read(min(PIECE_BYTES, size + 1 - len(data)))):
        data += piece  # no more memory than there is file, whatever the header says
    if len(data) != size:
        ends = f"ends at byte {header + len(data):,}" if len(data) < size else f"goes on after byte {header + size:,}"
        shape = " × ".join(f"{part:,}" for part in sizes)
        raise UserError(f"{path} {ends}; its header says {shape}, {header + size:,} bytes in all.", "Get it again.")
    if not size:
        raise UserError(f"{path} holds no {what}.", "Get it again.")
    return torch.frombuffer(data, dtype=torch.uint8).view(sizes)
