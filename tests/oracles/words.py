"""A small corpus of words, the same on every machine and Python, made by the package's own preparation."""

from pathlib import Path

from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings


def sentences(count: int, seed: int, vocabulary: int = 60) -> str:
    """Sentences of 3 to 12 words, each one of the five that may follow the one before (a congruential generator)."""
    state, lines = seed, []
    for _ in range(count):
        words, last = [], 0
        for _ in range(3 + (state >> 33) % 10):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            last = (7 * last + (state >> 40) % 5) % vocabulary
            words.append(f"w{last}")
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def write_words(folder: Path, *, train: int = 400, held_out: int = 60, vocabulary: int = 60, seed: int = 1) -> Path:
    """A corpus with the splits train, valid and test; the text lies beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    paths = {}
    for index, (name, count) in enumerate((("train", train), ("valid", held_out), ("test", held_out))):
        paths[name] = folder.parent / f"{folder.name}.{name}.txt"
        paths[name].write_text(sentences(count, seed + index, vocabulary))
    prepare_words(
        [paths["train"]], folder, WordSettings(), valid=[paths["valid"]], test=[paths["test"]], notify=lambda text: None
    )
    return folder
