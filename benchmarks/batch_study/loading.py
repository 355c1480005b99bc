"""What one worker of the loader gives a second: photographs, small images, sentences."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from overnight.data.images.batches import image_batches
from overnight.data.images.sources import open_images
from overnight.data.masked.batches import masked_batches


def loader_rates(folder: Path, corpus: Path | None, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Samples a second of processor time.

    Args:
        folder: where images are made.
        corpus: of BERT; None leaves it out.
        rng: of the images.
    """
    photographs, small = folder / "photographs", folder / "small"
    size = write_jpegs(photographs, rng, 64, (375, 500), 90)
    batches: Any = image_batches(corpus=str(photographs), lanes=64, seed=0, size=224, augment="resized", workers=1)
    batches = batches.batches  # not those of the background, which are made beside what is timed
    yield rate(f"224 × 224 out of JPEGs of 500 × 375, {size / 1e3:.0f} kB each", 64, lambda step: batches.at(step))
    write_jpegs(small, rng, 1000, (32, 32), 75)
    began = time.process_time()
    open_images(small, "train", size=32, workers=1)
    yield {"what": "listing and decoding JPEGs of 32 × 32 once", "per_s": 1000 / (time.process_time() - began)}
    held: Any = image_batches(corpus=str(small), lanes=500, seed=0, size=32, augment="crop", workers=1)
    yield rate("crop and flip of 32 × 32 from memory", 500, lambda step: held.at(step))
    for length in (128, 512) if corpus is not None else ():
        rows = masked_batches(corpus=str(corpus), lanes=64, seed=0, length=length)
        yield rate(f"sequences of {length} word pieces, masks drawn", 64, lambda step, of=rows: of.at(step))


def rate(what: str, count: int, call: Callable[[int], object], seconds: float = 1.0) -> dict[str, Any]:
    """Of calls that make ``count`` samples each."""
    call(0)
    began, step = time.process_time(), 0
    while step < 3 or time.process_time() - began < seconds:
        step += 1
        call(step)
    return {"what": what, "per_s": count * step / (time.process_time() - began)}


def write_jpegs(folder: Path, rng: np.random.Generator, count: int, shape: tuple[int, int], quality: int) -> float:
    """Class folders of smooth noise, with some of every pixel's own; mean bytes of a file."""
    from PIL import Image

    height, width = shape
    sizes = []
    for split, number in (("train", count), ("test", 2)):
        for index in range(number):
            rough = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            noisy = (image + rng.integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8)
            path = folder / split / str(index % 2) / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(path, quality=quality)
            sizes.append(path.stat().st_size)
    return float(np.mean(sizes))
