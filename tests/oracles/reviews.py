"""A small corpus of documents with sentences, the same on every machine and whatever ``tokenizers`` would learn."""

import json
from pathlib import Path
from typing import Any

from overnight.data.ingest import PrepareSettings
from overnight.data.masked.preparation import prepare_masked
from overnight.data.masked.settings import MaskedSettings
from overnight.data.masked.wordpiece import MARKS

STEMS = ("film", "plot", "actor", "scene", "story", "ending")
ENDINGS = ("##s", "##ly", "##er")


def write_tokenizer(path: Path, words: tuple[str, ...] = (*STEMS, *ENDINGS, ".")) -> Path:
    """A tokenizer.json of word pieces with a vocabulary that is given."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate((*MARKS, *words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def documents(count: int, seed: int, sentences: int = 6) -> list[str]:
    """Documents of 2 to ``sentences`` + 1 sentences of 2 to 6 words (a congruential generator)."""
    state, made = seed, []

    def draw(below: int) -> int:
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (state >> 40) % below

    for _ in range(count):
        text = []
        for _ in range(2 + draw(sentences)):
            words = [STEMS[draw(6)] + ("", "s", "ly", "er")[draw(4)] for _ in range(2 + draw(5))]
            text.append(" ".join(words).capitalize() + ".")
        made.append(" ".join(text))
    return made


def write_reviews(folder: Path, *, train: int = 120, held_out: int = 12, **settings: Any) -> Path:
    """A corpus with the splits train, valid and test; the text lies beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {}
    for index, (split, count) in enumerate((("train", train), ("valid", held_out), ("test", held_out))):
        path = folder.parent / f"{folder.name}.{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(count, 1 + index)))
        files[split] = [path]
    tokenizer = write_tokenizer(folder.parent / f"{folder.name}.tokenizer.json")
    text = PrepareSettings(framing="none", split=(1, 0, 0))
    made = MaskedSettings(**{"text": text, "tokenizer": str(tokenizer), **settings})
    prepare_masked(files["train"], folder, made, valid=files["valid"], test=files["test"], notify=lambda said: None)
    return folder
