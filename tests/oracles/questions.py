"""A small file of questions in SQuAD's form: the answer to all of them is the word with the stem "ending"."""

import json
from pathlib import Path
from typing import Any

from oracles.reviews import documents


def questions(count: int, seed: int, *, unanswered: int = 0) -> dict[str, Any]:
    """So many questions, two on each paragraph; each ``unanswered``-th cannot be answered."""
    paragraphs = []
    for number, text in enumerate(documents(-(-count // 2), seed, sentences=3)):
        words = text.split()
        place = 1 + (seed + 5 * number) % (len(words) - 1)
        context = " ".join(word.replace("ending", "scene") for word in (*words[:place], "@", *words[place:]))
        start = context.index("@")
        context = context.replace("@", "Ending")
        asked: list[dict[str, Any]] = []
        for index in range(min(2, count - 2 * number)):
            one = {"id": f"{seed}-{number}-{index}", "question": "Film?" if index else "What story?"}
            if unanswered and len(asked) + 2 * number and (2 * number + index) % unanswered == 0:
                asked.append({**one, "answers": [], "is_impossible": True})
            else:
                asked.append({**one, "answers": [{"text": "Ending", "answer_start": start}]})
        paragraphs.append({"context": context, "qas": asked})
    return {"version": "1.1", "data": [{"title": "films", "paragraphs": paragraphs}]}


def write_questions(folder: Path, *, train: int = 96, dev: int = 20, **settings: Any) -> Path:
    """``train-v1.1.json`` and ``dev-v1.1.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 3), ("dev", dev, 8)):
        (folder / f"{split}-v1.1.json").write_text(json.dumps(questions(count, seed, **settings)))
    return folder
