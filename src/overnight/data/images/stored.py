"""Images that stay in their files, decoded by threads when they are read; and their one-time conversion to memory.

Pillow decodes and torch resizes without Python's lock, so threads are enough.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.images.decode import centre, decode, pillow
from overnight.data.images.files import Item
from overnight.data.images.memory import LabelledImages
from overnight.errors import UserError

Bad = Literal["stop", "skip"]
NAMED = 3
"""Bad images that an error names; it counts all."""
REMEDY = "Get them again, or leave them out with --bad-images skip."


class StoredImages:
    """Labelled images in files: decoded and cut to one size when they are read.

    Args:
        items: the encoded images.
        class_names: all classes, in the order of their numbers.
        size: of what is read: ``size`` × ``size`` pixels out of the middle.
        margin: the shorter side is resized to ``size`` · this first; 256 / 224 is usual for photographs.
        bad_images: what cannot be decoded: ``stop`` says so, ``skip`` takes the next image in its place.
        workers: threads; None for one a core.

    Attributes:
        labels: int64 [N].
        classes: how many there are.
        bad: names of the images that could not be decoded so far, and why.
    """

    def __init__(
        self,
        items: Sequence[Item],
        class_names: Sequence[str],
        size: int,
        *,
        margin: float = 1.0,
        bad_images: Bad = "stop",
        workers: int | None = None,
    ) -> None:
        pillow()
        if size < 1 or bad_images not in ("stop", "skip"):
            raise UserError(f"size={size}, bad_images={bad_images!r} cannot work.", "Take at least 1; stop or skip.")
        self.items, self.class_names, self.size, self.margin = items, tuple(class_names), size, margin
        self.bad_images, self.workers = bad_images, workers
        numbers = {name: number for number, name in enumerate(class_names)}
        self.labels = torch.tensor([numbers[item.label] for item in items], dtype=torch.int64)
        self.classes = len(class_names)
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, sizes in tars, and labels; not of pixels."""
        hashed = hashlib.sha256(self.labels.numpy().tobytes())
        for item in self.items:
            hashed.update(f"{item.name.rsplit('/', 1)[-1]} {item.size}\n".encode())
        return hashed.hexdigest()

    def read(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The middles of these images, uint8 [B, size, size, 3], and their labels."""
        return self.read_with(indices, [partial(centre, size=self.size, margin=self.margin)] * len(indices))

    def read_with(
        self, indices: npt.NDArray[np.int64], cuts: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Each image cut by its own function of uint8 [H, W, 3] → uint8 [size, size, 3].

        Raises:
            UserError: for an image that cannot be decoded, unless they are skipped, and where none can be.
        """
        found = list(_pool(self.workers).map(self._one, indices.tolist(), cuts))
        images, labels = zip(*found, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _one(self, index: int, cut: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        for place in range(index, index + len(self)):
            item = self.items[place % len(self)]
            try:
                return cut(decode(item.read())), self.labels[place % len(self)]
            except (ValueError, OSError) as error:
                if self.bad_images == "stop":
                    raise UserError(f"{item.name} cannot be decoded ({error}).", REMEDY) from None
                if item.name not in self.bad:
                    self.bad[item.name] = str(error)
                    print(f"Skipped ({len(self.bad):,} so far): {item.name}: {error}", file=sys.stderr)
        raise UserError(f"None of {len(self):,} images can be decoded.", "Get them again.")

    def held(self) -> LabelledImages:
        """All of them decoded, in memory; those that cannot be are counted and named.

        Raises:
            UserError: if some cannot be decoded, unless they are skipped, and if a class has none left.
        """
        middle = partial(centre, size=self.size, margin=self.margin)

        def one(item: Item) -> Tensor | str:
            try:
                return middle(decode(item.read()))
            except (ValueError, OSError) as error:
                return f"{item.name} ({error})"

        pixels = torch.empty(len(self), self.size, self.size, 3, dtype=torch.uint8)
        good: list[int] = []
        bad: list[str] = []
        for place, found in enumerate(_pool(self.workers).map(one, self.items)):
            if isinstance(found, str):
                bad.append(found)
            else:
                pixels[len(good)] = found
                good.append(place)
        if bad:
            self._tell(bad)
        labels = self.labels[torch.tensor(good, dtype=torch.int64)]
        missing = set(range(self.classes)) - set(labels.tolist()) if bad else set()
        if missing:
            name = self.class_names[min(missing)]
            raise UserError(f"No image of class {name!r} can be decoded.", "Get its images again.")
        return LabelledImages(pixels[: len(good)], labels, self.classes)

    def _tell(self, bad: Sequence[str]) -> None:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        said = f"{len(bad):,} of {len(self):,} images cannot be decoded: {'; '.join(bad[:NAMED])}{more}."
        if self.bad_images == "stop":
            raise UserError(said, REMEDY)
        print(f"Skipped: {said}", file=sys.stderr)

    def part(self, indices: Iterable[int]) -> "StoredImages":
        """Those at these places."""
        chosen = [self.items[index] for index in indices]
        settings = {"margin": self.margin, "workers": self.workers}
        return StoredImages(chosen, self.class_names, self.size, bad_images=self.bad_images, **settings)  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _pool(workers: int | None) -> ThreadPoolExecutor:
    count = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return ThreadPoolExecutor(count, thread_name_prefix="images")
