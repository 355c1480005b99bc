"""Masked batches: a function of (seed, step), every chunk once an epoch, shares as asked for, next sentences true."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.reviews import write_reviews

from overnight.data.masked import MaskedCorpus
from overnight.data.masked.batches import MaskedBatch, MaskedBatches, masked_batches
from overnight.data.masked.chunks import pack
from overnight.data.masked.drawing import Masking
from overnight.errors import UserError


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("masked") / "corpus", train=200)


def batches(reviews: Path, lanes: int = 16, **settings: Any) -> MaskedBatches:
    return masked_batches(corpus=str(reviews), lanes=lanes, seed=3, **{"length": 24, **settings})


def uncovered(batch: MaskedBatch) -> torch.Tensor:
    """The ids as they were before some were hidden."""
    ids = batch.input_BT.flatten().clone()
    ids[batch.masked_M] = batch.target_M
    return ids.view_as(batch.input_BT)


def test_a_share_is_what_the_whole_has_there(reviews: Path) -> None:
    made = batches(reviews)
    for step in (0, 3, 200):
        whole, again = made.at(step), batches(reviews).at(step)
        assert torch.equal(whole.input_BT, again.input_BT)
        assert torch.equal(whole.masked_M, again.masked_M)
        part = made.at(step, 4, 6)
        width = part.input_BT.shape[1]
        assert torch.equal(part.input_BT, whole.input_BT[4:10, :width])
        assert part.targets == len(part.target_M) == len(part.masked_M)
    other = masked_batches(corpus=str(reviews), lanes=16, seed=4, length=24)
    assert not torch.equal(other.at(0).input_BT, made.at(0).input_BT)


def test_every_row_once_an_epoch_whatever_the_batch(reviews: Path) -> None:
    made = batches(reviews, 7)
    seen: list[int] = []
    made.row = lambda row, sample: seen.append(row) or made_row(row, sample)  # type: ignore[method-assign, func-returns-value]
    made_row = batches(reviews, 7).row
    for step in range(-(-2 * made.rows // 7)):
        made.at(step)
    assert sorted(seen[: made.rows]) == sorted(seen[made.rows : 2 * made.rows]) == list(range(made.rows))
    assert seen[: made.rows] != seen[made.rows : 2 * made.rows]


def test_chunks_have_every_sentence_of_short_documents(reviews: Path) -> None:
    made = batches(reviews, length=512)
    assert len(made.chunks) == 200
    stream = MaskedCorpus(reviews).split("train")
    for chunk in range(20):
        ids = stream.read(int(stream.edges[chunk]), int(stream.edges[chunk + 1] - stream.edges[chunk]))
        assert np.concatenate(made.chunks.read(chunk)).tolist() == ids[ids != made.pieces.sep].tolist()
    small = batches(reviews, length=12).chunks
    own = [np.concatenate(small.read(chunk)) for chunk in range(len(small)) if small.document(chunk)[0] == 0]
    ids = stream.read(0, int(stream.edges[1]))
    inside = {tuple(part) for part in own}
    assert all(len(part) for part in own)
    text = " ".join(map(str, ids[ids != made.pieces.sep]))
    assert all(" ".join(map(str, part)) in text for part in inside)


def test_shares(reviews: Path) -> None:
    made = batches(reviews, 1000, length=64, short=0.0)
    batch = made.at(0)
    inside = int((batch.sequence_BT > 0).sum())
    assert batch.targets / inside == pytest.approx(0.15, abs=0.01)
    seen = batch.input_BT.flatten()[batch.masked_M]
    hidden = float((seen == made.pieces.mask).float().mean())
    assert hidden == pytest.approx(0.8, abs=0.02)
    kept = float((seen == batch.target_M).float().mean())
    assert kept == pytest.approx(0.1 + 0.1 / 10, abs=0.02)  # a random piece of ten is the same now and then
    assert float(batch.swapped_S.float().mean()) == pytest.approx(0.5, abs=0.05)
    marks = {made.pieces.cls, made.pieces.sep, made.pieces.pad}
    assert not marks & set(batch.target_M.tolist())
    assert batch.input_BT.shape[1] <= 64


def test_next_sentences_are_what_they_say(reviews: Path) -> None:
    """Where the second segment is not swapped, both stand in one document, one after the other."""
    made = batches(reviews, 60, length=64, short=0.0)
    batch, stream = made.at(1), MaskedCorpus(reviews).split("train")
    texts = []
    for start, end in zip(stream.edges[:-1], stream.edges[1:], strict=True):
        ids = stream.read(int(start), int(end - start))
        texts.append(" " + " ".join(map(str, ids[ids != made.pieces.sep])) + " ")
    for ids, types, swapped in zip(uncovered(batch), batch.type_BT, batch.swapped_S, strict=True):
        inner = (ids != made.pieces.cls) & (ids != made.pieces.sep) & (ids != made.pieces.pad)
        first, second = (" ".join(map(str, ids[inner & (types == kind)].tolist())) for kind in (0, 1))
        assert first
        assert second
        together = any(f" {first} {second} " in text for text in texts)
        assert together or swapped


def test_whole_words(reviews: Path) -> None:
    made = batches(reviews, 100, length=64, whole_words=True)
    batch = made.at(0)
    ids, hidden = uncovered(batch).flatten(), torch.zeros(batch.input_BT.numel(), dtype=torch.bool)
    hidden[batch.masked_M] = True
    goes_on = torch.from_numpy(made.pieces.continues)[ids]
    goes_on[1:] &= ids[:-1] != made.pieces.cls  # a first piece begins a word whatever it is
    assert bool(goes_on.any())
    assert torch.equal(hidden[1:][goes_on[1:]], hidden[:-1][goes_on[1:]])


@pytest.mark.parametrize("length", [64, 200])
def test_packing(reviews: Path, length: int) -> None:
    made = batches(reviews, 20, length=length, packed=True, short=0.0)
    assert made.rows < len(made.chunks)
    batch = made.at(0)
    assert batch.input_BT.shape[1] <= length
    assert len(batch.first_S) == int(batch.sequence_BT.amax(1).sum())
    assert bool((batch.input_BT.flatten()[batch.first_S] == made.pieces.cls).all())
    assert bool((batch.position_BT.flatten()[batch.first_S] == 0).all())


@pytest.mark.parametrize("length", [40, 64, 200])
def test_packed_rows_are_full_and_hold_every_chunk_once(reviews: Path, length: int) -> None:
    made = batches(reviews, 100, length=length, packed=True)
    assert made._rows is not None
    order, edges = made._rows
    assert sorted(order.tolist()) == list(range(len(made.chunks)))
    assert (edges[0], edges[-1], len(edges) - 1) == (0, len(order), made.rows)
    assert bool((np.diff(edges) > 0).all())
    filled = [
        float((one.at(0, 0, min(100, one.rows)).sequence_BT > 0).sum()) / (length * min(100, one.rows))
        for one in (made, batches(reviews, 100, length=length))
    ]
    assert filled[0] > max(0.85, filled[1] + 0.1)


def test_packing_is_best_fit_decreasing() -> None:
    """Against a slow one, chunk by chunk: as many rows, and each is no fuller than it may be."""
    draw = np.random.default_rng(0)
    for length, count in ((16, 300), (16, 1), (50, 200)):
        sizes = draw.integers(5, length + 1, count)
        order, edges = pack(sizes, length)
        rows = [order[one:two] for one, two in itertools.pairwise(edges)]
        assert sorted(order.tolist()) == list(range(count))
        assert max(int(sizes[row].sum()) for row in rows) <= length
        rooms: list[int] = []
        for size in sorted(sizes.tolist(), reverse=True):
            fitting = [place for place, room in enumerate(rooms) if room >= size]
            if fitting:
                rooms[min(fitting, key=lambda place: rooms[place])] -= size
            else:
                rooms.append(length - size)
        assert len(rows) <= len(rooms) * 1.03


def test_one_segment(reviews: Path) -> None:
    batch = batches(reviews, next_sentence=False).at(0)
    assert not batch.type_BT.any()
    assert int((uncovered(batch) == 3).sum()) == 16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 4}, "A sequence of 4 word pieces has no room"),
        ({"lanes": 0}, "A batch of 0 sequences"),
        ({"share": 1.0}, "A share of 1 to be guessed"),
        ({"split": "all"}, "'all' is not a split"),
    ],
)
def test_what_is_refused(reviews: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        masked_batches(**{"corpus": str(reviews), "lanes": 4, "seed": 0, **settings})
    with pytest.raises(UserError, match="do not add up"):
        Masking(mask=0.9, random=0.2)
