"""Questions on paragraphs in SQuAD's JSON, versions 1.1 and 2.0: read and checked.

``{"data": [{"paragraphs": [{"context": …, "qas": [{"id", "question", "answers": [{"text", "answer_start"}],
"is_impossible"}]}]}]}``: an answer is a piece of its paragraph, ``answer_start`` the number of the character where it
begins. Rajpurkar et al. 2016 (arXiv 1606.05250), 2018 (arXiv 1806.03822).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from overnight.errors import UserError

ENDINGS = (".json", ".json.gz")
WORDS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Question:
    """A question on a paragraph.

    Attributes:
        id: its name in the file.
        question, context: the texts.
        answers: pieces of the context, each with the character where it begins; none where it cannot be answered.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


def read_squad(path: str | Path) -> list[Question]:
    """The questions of a file, gzipped or not, in their order.

    Raises:
        UserError: if it cannot be read, is no such JSON, a question lacks something or has the name of another, an
            answer does not stand where it is said to, or there is no question. The question is named.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        root = orjson.loads(data)
    except (orjson.JSONDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no JSON: {error}.", "Get it again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).", "Name a file of SQuAD.") from None
    found = list(_questions(root, str(path)))
    if not found:
        raise UserError(f"{path} holds no question.", "Give a file of SQuAD with questions.")
    seen: set[str] = set()
    for one in found:
        if one.id in seen:
            raise UserError(f"{path}: two questions have the id {one.id!r}.", "Give each an id of its own.")
        seen.add(one.id)
    return found


def digest_of(questions: list[Question]) -> str:
    """SHA-256 of all texts and answers."""
    hashed = sha256()
    for one in questions:
        said = [one.id, one.question, one.context, *(f"{start} {text}" for text, start in one.answers)]
        hashed.update("\0".join(said).encode("utf-8", "replace") + b"\n")
    return hashed.hexdigest()


def squad_files(data: str | Path, *, dev: str | Path | None = None) -> dict[str, Path]:
    """The files of the splits: ``train`` and ``dev``, and ``test`` where there is one.

    Args:
        data: a folder of files named after their splits (``train-v1.1.json``, ``dev-v1.1.json``), or the training file.
        dev: the dev file, where ``data`` is a file.

    Raises:
        UserError: if there is no such path, no file or more than one for a split.
    """
    place = Path(data)
    if place.is_file():
        if dev is None:
            raise UserError(f"{place} is one file, and nothing is held out.", "Name the dev file with --dev.")
        return {"train": place, "dev": Path(dev)}
    if not place.is_dir():
        raise UserError(f"There is no file or folder {data}.", "Name SQuAD's files, or their folder.")
    if dev is not None:
        raise UserError(f"{place} is a folder, so --dev has no meaning.", "Name the training file instead.")
    names = sorted(path for path in place.iterdir() if path.name.endswith(ENDINGS))
    found: dict[str, Path] = {}
    for split, words in WORDS.items():
        own = [path for path in names if path.name.lower().startswith(words)]
        if len(own) > 1:
            listed = ", ".join(path.name for path in own)
            raise UserError(f"{place} has several files for {split}: {listed}.", "Leave one, or name the files.")
        if own:
            found[split] = own[0]
        elif split != "test":
            raise UserError(f"{place} has no file {split}….json.", "Name the training file, and the other with --dev.")
    return found


def _questions(root: Any, path: str) -> Iterator[Question]:
    for number, article in enumerate(_list(root, "data", path, "the file")):
        for place, paragraph in enumerate(_list(article, "paragraphs", path, f"data[{number}]")):
            where = f"data[{number}].paragraphs[{place}]"
            context = _text(paragraph, "context", path, where)
            for index, asked in enumerate(_list(paragraph, "qas", path, where)):
                yield _question(asked, context, path, f"{where}.qas[{index}]")


def _question(asked: Any, context: str, path: str, where: str) -> Question:
    name = _text(asked, "id", path, where)
    where = f"question {name!r}"
    question = _text(asked, "question", path, where)
    if asked.get("is_impossible") is True:
        return Question(name, question, context, ())
    answers = []
    for answer in _list(asked, "answers", path, where):
        text, start = _text(answer, "text", path, where), answer.get("answer_start")
        if not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{path}: {where} has an answer without an answer_start.", "Mend the file.")
        if not text or start < 0 or context[start : start + len(text)] != text:
            raise UserError(
                f"{path}: {where}: its answer {text[:60]!r} does not stand at character {start} of its paragraph.",
                "Mend answer_start; characters are counted, not bytes.",
            )
        answers.append((text, start))
    if not answers:
        raise UserError(f"{path}: {where} has no answer.", 'Add one, or "is_impossible": true.')
    return Question(name, question, context, tuple(answers))


def _list(value: Any, key: str, path: str, where: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path} is no file of SQuAD: {where} has no list {key!r}.", "See docs/bert.md for its form.")
    return found


def _text(value: Any, key: str, path: str, where: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise UserError(f"{path} is no file of SQuAD: {where} has no text {key!r}.", "See docs/bert.md for its form.")
    return found
