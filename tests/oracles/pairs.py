"""A small corpus of pairs, the same on every machine and Python, made by the package's own preparation."""

from pathlib import Path

from overnight.data.pairs.preparation import prepare_pairs
from overnight.data.pairs.settings import PairSettings


def sentences(count: int, seed: int, vocabulary: int = 12) -> tuple[list[str], list[str]]:
    """Sentences of 1 to 6 words and their "translations": other words, the last first (a congruential generator)."""
    state, sources, targets = seed, [], []
    for _ in range(count):
        words = []
        for _ in range(1 + (state >> 33) % 6):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            words.append((state >> 40) % vocabulary)
        sources.append(" ".join(f"w{word}" for word in words))
        targets.append(" ".join(f"v{word}" for word in reversed(words)))
    return sources, targets


def write_pairs(folder: Path, *, train: int = 300, held_out: int = 40, settings: PairSettings | None = None) -> Path:
    """A corpus with the splits train, valid and test; the text lies beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {}
    for index, (split, count) in enumerate((("train", train), ("valid", held_out), ("test", held_out))):
        files[split] = [folder.parent / f"{folder.name}.{split}.{side}" for side in ("s", "t")]
        for path, lines in zip(files[split], sentences(count, 1 + index), strict=True):
            path.write_text("".join(line + "\n" for line in lines))
    prepare_pairs(files["train"], folder, settings, valid=files["valid"], test=files["test"], notify=lambda text: None)
    return folder
