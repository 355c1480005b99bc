"""Encoded images where they lie: folders of classes, and tar files with such folders or WebDataset's pairs in them."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from overnight.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
"""Files with other names are not images, and are left alone."""
LABEL = ".cls"
HELD_BYTES = 2 << 30
"""A compressed tar cannot be read out of order, so what is in it is held in memory, up to this."""


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded image.

    Attributes:
        name: as messages have it.
        label: name of the class.
        path: the file, or the tar that holds it.
        offset, size: where in the tar; a size of -1 means the whole file.
        data: the bytes themselves, where they are held in memory.
    """

    name: str
    label: str
    path: str
    offset: int = 0
    size: int = -1
    data: bytes | None = None

    def read(self) -> bytes:
        """The encoded bytes."""
        if self.data is not None:
            return self.data
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), self.size, self.offset) if self.size >= 0 else file.read()


def find_split(folder: Path, names: Sequence[str]) -> tuple[list[Path], Path | None] | None:
    """The tars or the class folder of a split, under the first of its names that there is."""
    for name in names:
        tars = sorted(path for path in folder.glob(f"{name}*.tar*") if path.name.endswith((".tar", ".tar.gz", ".tgz")))
        inside = sorted((folder / name).glob("*.tar")) if (folder / name).is_dir() else []
        if tars or inside:
            return [*tars, *inside], None
        if (folder / name).is_dir():
            return [], folder / name
    return None


def class_folder(folder: Path) -> list[Item]:
    """Images at ``folder/CLASS/…/NAME``, in order of class and name.

    Raises:
        UserError: if there are no class folders, or one of them has no image.
    """
    items: list[Item] = []
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders.", "Put the images of each class into a folder of its name.")
    for name in classes:
        found = sorted(_walk(folder / name))
        if not found:
            raise UserError(f"Class {name!r} is empty: {folder / name} has no image.", "Fill the folder or remove it.")
        items += [Item(path, name, path) for path in found]
    return items


def _walk(folder: Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            yield entry.path


def tar_items(paths: Sequence[Path]) -> list[Item]:
    """Images of tar files, in their order: the class is the folder, or what a ``.cls`` of the same name says.

    Raises:
        UserError: if a tar is damaged, has no image, has an image without a class, or is compressed and too large.
    """
    return [item for path in paths for item in _tar(path)]


def _tar(path: Path) -> list[Item]:
    compressed = path.suffix != ".tar"
    if compressed and path.stat().st_size > HELD_BYTES:
        raise UserError(f"{path} is compressed, and too large to be held in memory.", f"Unpack it: gunzip {path}.")
    found: list[Item] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r|gz" if compressed else "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                said = f"{path}: {member.name}"
                if name.suffix == LABEL:
                    file = tar.extractfile(member)
                    labels[_key(name)] = file.read().decode("utf-8", "replace").strip() if file is not None else ""
                elif name.suffix.lower() in SUFFIXES:
                    file = tar.extractfile(member) if compressed else None
                    data = file.read() if file is not None else None
                    found.append(Item(said, name.parent.name, str(path), member.offset_data, member.size, data))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", "Name the folder that holds it.") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole tar file: {error}.", "Get it again.") from None
    if not found:
        raise UserError(f"{path} holds no image.", f"Images are named {', '.join(SUFFIXES[:4])}, …")
    if labels:
        prefix = len(f"{path}: ")
        keys = [_key(PurePosixPath(item.name[prefix:])) for item in found]
        found = [
            Item(item.name, labels.get(key, ""), item.path, item.offset, item.size, item.data)
            for item, key in zip(found, keys, strict=True)
        ]
    for item in found:
        if not item.label:
            raise UserError(f"{item.name} has no class.", "Put it into a folder of its class, or add a .cls file.")
    return found


def _key(name: PurePosixPath) -> str:
    """What WebDataset calls the key of a sample: its name up to the first dot."""
    return str(name.with_name(name.name.split(".")[0]))
