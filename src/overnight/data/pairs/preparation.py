"""From parallel text to a corpus of pairs: one pass that counts words, and one that writes ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from overnight.data.ingest.continuing import already_there
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.folder import CorpusFolder
from overnight.data.ingest.preparation import log
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.sources import Source, sources_digest
from overnight.data.pairs.coding import Coder, bpe_coder, word_coder
from overnight.data.pairs.corpus import FILES, HELD_OUT, SIDES
from overnight.data.pairs.reading import read_pairs, text_source
from overnight.data.pairs.settings import PairSettings
from overnight.data.pairs.writing import write_corpus
from overnight.data.words.counting import WordCounter
from overnight.errors import UserError


def prepare_pairs(
    train: Sequence[str | Path],
    out: str | Path,
    settings: PairSettings | None = None,
    *,
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn parallel text into a corpus of pairs (docs/translation.md).

    The training files are read twice, once to count words and once to write ids; memory does not grow with the text,
    only with the vocabularies. A run that is interrupted or fails leaves nothing.

    Args:
        train: two text files, source and target, of as many lines; .gz and .zst too.
        out: the corpus folder to write.
        settings: everything that decides the ids.
        valid, test: two files each, whose text is kept beside their ids, and of which no pair is too long.
        force: replace the corpus in ``out``.
        notify: told in a sentence of what was found in ``out``.
        progress: counters to keep up to date.

    Returns:
        The manifest.

    Raises:
        UserError: files of different numbers of lines (it names both), text that is not UTF-8, no pairs, a folder of
            something else, a full disk.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> de, en = (Path(scratch.name) / name for name in ("de", "en"))
    >>> _ = de.write_text("eine rose\\n\\n"), en.write_text("a rose\\nnothing\\n")
    >>> manifest = prepare_pairs([de, en], Path(scratch.name) / "corpus")
    >>> manifest["counts"]["pairs"], manifest["counts"]["empty"], manifest["vocabulary"]["target"]["size"]
    (1, 1, 5)
    >>> scratch.cleanup()
    """
    settings = settings or PairSettings()
    folder = CorpusFolder(Path(out), FILES)
    files = {name: _two(name, given) for name, given in zip(SPLITS, (train, valid, test), strict=True) if given}
    if "train" not in files:
        raise UserError("No training files were given.", "Name two: overnight prepare --pairs SOURCE TARGET --out DIR.")
    described = {
        **settings.as_json(),
        "heldout": [split for split in HELD_OUT if split in files],
        "sources_sha256": sources_digest([source for two in files.values() for source in two]),
    }
    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, None, False, notify)
    progress = progress or Progress()
    progress.bytes_total = sum(source.bytes for two in (files["train"], *files.values()) for source in two)
    with folder.locked():
        try:
            folder.begin({"settings": described, "pairs": True})
            coders = _coders(files["train"], settings, folder.partial, progress)
            manifest = write_corpus(files, coders, settings, folder, progress)
            manifest["settings"] = described
            folder.finish(manifest)
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress) from error
        except BaseException:
            folder.discard()
            raise
    return manifest


def _two(split: str, given: Sequence[str | Path]) -> tuple[Source, Source]:
    if len(given) != 2:
        raise UserError(
            f"{len(given)} files were given for the {split} split.", "Give two: the sentences, and their translations."
        )
    return text_source(given[0], split), text_source(given[1], split)


def _full(sources: tuple[Source, Source], progress: Progress) -> Iterator[tuple[bytes, bytes]]:
    return (pair for pair in read_pairs(sources, progress.read) if pair[0] and pair[1])


def _coders(
    sources: tuple[Source, Source], settings: PairSettings, scratch: Path, progress: Progress
) -> tuple[Coder, Coder]:
    if settings.bpe is not None:
        if settings.joint:
            both = bpe_coder((side for pair in _full(sources, progress) for side in pair), settings.bpe)
            return both, both
        return tuple(bpe_coder((pair[i] for pair in _full(sources, progress)), settings.bpe) for i in (0, 1))  # type: ignore[return-value]
    counters = []
    for side in SIDES[: 1 if settings.joint else 2]:
        (scratch / side).mkdir(exist_ok=True)
        counters.append(WordCounter(scratch / side))
    pairs = 0
    for first, second in _full(sources, progress):
        counters[0].add(first.split())
        counters[-1].add(second.split())
        pairs += 1
    if not pairs:
        raise UserError(f"{sources[0].path} and {sources[1].path} hold no pair of sentences.", "Give some text.")
    limits: dict[str, Any] = {"size": settings.vocab_size, "min_count": settings.min_count}
    made = [word_coder(counter.items(), pairs, **limits) for counter in counters]
    return made[0], made[-1]
