"""Features of any number of texts into one file, a block at a time; the file is whole or absent."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError

Block = NDArray[np.float32]
SUFFIXES = (".npy", ".parquet")


def check_out(out: Path) -> None:
    """Raise a UserError unless ``out`` is a file that can be written: .npy or .parquet, in a folder that is there."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"{out}: its name does not tell a format.", f"End it in {' or '.join(SUFFIXES)}.")
    if out.is_dir():
        raise UserError(f"{out} is a folder.", "Name a file.")
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist.", "Make it, or choose another.")


def write_features(out: Path, blocks: Iterable[Block], width: int, about: Mapping[str, str]) -> int:
    """Write blocks of rows, float32 [n, ``width``], one after another.

    Args:
        out: ``.npy``, one array float32 [N, H] (``np.load(out, mmap_mode="r")`` reads it without loading it), or
            ``.parquet``, one column ``features`` of lists of H floats. One that is there is replaced.
        blocks: taken one at a time; an error in them leaves ``out`` as it was.
        width: H.
        about: what a Parquet file says of itself, in the schema's metadata.

    Returns:
        N.

    Raises:
        UserError: for another ending, or if the file cannot be written.

    Example:
        >>> write_features(Path("f.npy"), [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)], 3, {})
        3
        >>> np.load("f.npy", mmap_mode="r").shape
        (3, 3)
    """
    check_out(out)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    write = _npy if out.suffix.lower() == ".npy" else _parquet
    try:
        with aside.open("wb") as file:
            count = write(file, blocks, width, about)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}).", "Free some space there, or choose another place."
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return count


def _npy(file: BinaryIO, blocks: Iterable[Block], width: int, about: Mapping[str, str]) -> int:
    def head(count: int) -> None:
        # numpy leaves room for a first dimension of any size, so that the header can be written again
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)

    head(0)
    begin, count = file.tell(), 0
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype="<f4").data)
        count += len(block)
    file.seek(0)
    head(count)
    assert file.tell() == begin
    return count


def _parquet(file: BinaryIO, blocks: Iterable[Block], width: int, about: Mapping[str, str]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([pa.field("features", pa.list_(pa.float32(), width), nullable=False)], metadata=dict(about))
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        for block in blocks:
            flat = pa.array(np.ascontiguousarray(block, dtype=np.float32).reshape(-1))
            rows: Any = pa.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(pa.Table.from_arrays([rows], schema=schema))
            count += len(block)
    return count
