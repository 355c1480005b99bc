"""Byte lanes: contiguous, shared by ranks without overlap, reset where a unit starts, a pure function of the step."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.corpus import write_corpus

from overnight.data.corpus import ByteStream, Corpus
from overnight.data.lanes import LaneBatch, Lanes, corpus_lanes
from overnight.errors import UserError

Make = Callable[..., ByteStream]


@pytest.fixture
def make_stream(tmp_path: Path) -> Make:
    def make(*shards: list[bytes]) -> ByteStream:
        return Corpus(write_corpus(tmp_path / "corpus", train=list(shards))).split("train")

    return make


def numbered(size: int) -> list[bytes]:
    """Two bytes that say where each pair stands, so that every position below 64 k can be told from its window."""
    return [bytes(byte for pair in range(size // 2) for byte in divmod(pair, 256))]


def same(one: LaneBatch, other: LaneBatch) -> bool:
    names = ("input_TB", "target_TB", "reset_TB")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def stitched(lanes: Lanes, first: int, steps: int) -> torch.Tensor:
    """The inputs of steps in a row, [steps T, B]."""
    return torch.cat([lanes.at(step).input_TB for step in range(first, first + steps)])


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_a_lane_goes_on_from_step_to_step(make_stream: Make, seed: int | None) -> None:
    stream = make_stream(numbered(1000), numbered(602))
    text = stream.read(0, len(stream)).tobytes()
    lanes = Lanes(stream, 5, 9, seed=seed)
    assert lanes.steps_per_epoch == (1602 // 5 - 1) // 9 == 35
    for epoch in range(3):
        read = stitched(lanes, epoch * 35, 35)
        offset = lanes.epoch_offset(epoch)
        for lane in range(5):
            start = offset + lane * lanes.lane_size
            assert bytes(read[:, lane].tolist()) == bytes(text[at % 1602] for at in range(start, start + 35 * 9))


def test_targets_are_the_inputs_of_the_next_position(make_stream: Make) -> None:
    lanes = Lanes(make_stream(numbered(600)), 3, 8)
    for step in range(lanes.steps_per_epoch - 1):
        batch, following = lanes.at(step), lanes.at(step + 1)
        assert torch.equal(batch.target_TB[:-1], batch.input_TB[1:])
        assert torch.equal(batch.target_TB[-1], following.input_TB[0])
        assert batch.input_TB.dtype == batch.target_TB.dtype == torch.int64
        assert batch.reset_TB.dtype == torch.bool
        assert {tuple(part.shape) for part in vars(batch).values()} == {(8, 3)}


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_ranks_partition_the_lanes(make_stream: Make, ranks: int) -> None:
    lanes = Lanes(make_stream(numbered(900), numbered(100)), 6, 11, reset="document")
    each = 6 // ranks
    for step in (0, 1, lanes.steps_per_epoch, 4 * lanes.steps_per_epoch + 3):
        whole = lanes.at(step)
        shares = [lanes.at(step, rank * each, each) for rank in range(ranks)]
        joined = LaneBatch(*(torch.cat([vars(share)[name] for share in shares], 1) for name in vars(whole)))
        assert same(joined, whole)


def test_a_batch_is_a_function_of_its_step(make_stream: Make) -> None:
    stream = make_stream(numbered(700))
    walked, jumped = Lanes(stream, 4, 10, seed=3), Lanes(stream, 4, 10, seed=3)
    batches = {step: walked.at(step) for step in range(60)}
    for step in (59, 0, 31, 31, 7):
        assert same(jumped.at(step), batches[step])
    other = Lanes(stream, 4, 10, seed=4)
    assert not same(other.at(0), batches[0])


def test_epochs_start_elsewhere_unless_told_not_to(make_stream: Make) -> None:
    stream = make_stream(numbered(4000))
    moving, still = Lanes(stream, 4, 10, seed=0), Lanes(stream, 4, 10, seed=None)
    assert len({moving.epoch_offset(epoch) for epoch in range(20)}) > 15
    assert all(0 <= moving.epoch_offset(epoch) < 4000 for epoch in range(20))
    assert {still.epoch_offset(epoch) for epoch in range(20)} == {0}
    assert same(still.at(0), still.at(still.steps_per_epoch))


@given(
    sizes=st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=5),
    lanes=st.integers(1, 4),
    length=st.integers(1, 9),
    seed=st.one_of(st.none(), st.integers(0, 5)),
    reset=st.sampled_from(["shard", "document", "never"]),
)
@settings(max_examples=150, deadline=None)
def test_resets_stand_where_a_unit_starts(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    lanes: int,
    length: int,
    seed: int | None,
    reset: str,
) -> None:
    total = sum(map(sum, sizes))
    if total // lanes < length + 1:
        return
    number, starts, shards = 0, set(), []
    for shard in sizes:
        documents = []
        if sum(shard):
            starts.add((number, "shard"))
        for size in shard:
            if size:
                starts.add((number, "document"))
            documents.append(bytes(range(number, number + size)))
            number += size
        shards.append(documents)
    folder = tmp_path_factory.mktemp("lanes")
    made = Lanes(Corpus(write_corpus(folder, train=shards)).split("train"), lanes, length, seed=seed, reset=reset)
    for step in range(2 * made.steps_per_epoch):
        batch = made.at(step)
        expected = torch.tensor([[(byte, reset) in starts for byte in row] for row in batch.input_TB.tolist()])
        if step % made.steps_per_epoch == 0:
            expected[0] = True
        assert torch.equal(batch.reset_TB, expected)


def test_a_window_runs_over_the_end_of_the_stream(make_stream: Make) -> None:
    stream = make_stream([bytes(range(50))], [bytes(range(50, 100))])
    for seed in range(200):
        lanes = Lanes(stream, 1, 99, seed=seed)
        batch, offset = lanes.at(0), lanes.epoch_offset(0)
        assert batch.input_TB[:, 0].tolist() == [(offset + t) % 100 for t in range(99)]
        assert batch.target_TB[-1, 0] == (offset + 99) % 100
        assert {int(byte) for byte in batch.input_TB[batch.reset_TB]} - {offset} == ({0, 50} - {offset}) & {
            (offset + t) % 100 for t in range(99)
        }


@pytest.mark.parametrize(("size", "length"), [(1000, 9), (1009, 9), (100, 99), (57, 7)])
def test_too_short_a_corpus_names_the_largest_batch(make_stream: Make, size: int, length: int) -> None:
    stream = make_stream([bytes(size)])
    largest = size // (length + 1)
    assert Lanes(stream, largest, length).steps_per_epoch >= 1
    with pytest.raises(UserError, match=f"{size:,} bytes.*largest batch that fits is {largest}\\."):
        Lanes(stream, largest + 1, length)


def test_too_short_for_any_batch(make_stream: Make) -> None:
    for stream in (make_stream([b"tiny"]), make_stream()):
        with pytest.raises(UserError, match="Give more text, or a shorter sequence"):
            Lanes(stream, 1, 9)


@pytest.mark.parametrize("wrong", [{"lanes": 0}, {"length": 0}, {"reset": "page"}])
def test_settings_out_of_range(make_stream: Make, wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Lanes(**{"stream": make_stream([bytes(100)]), "lanes": 2, "length": 5, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(("local_rank", "verified"), [(None, True), ("0", True), ("1", False)])
def test_one_rank_of_a_host_hashes_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_rank: str | None, verified: bool
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    folder = write_corpus(tmp_path / "corpus", train=[[bytes(100)]])
    (folder / "train" / "00000.bin").write_bytes(bytes(99) + b"x")
    with pytest.raises(UserError, match="was altered") if verified else nullcontext():
        assert corpus_lanes(corpus=str(folder), lanes=2, seed=0, length=5).digest == Corpus(folder).digest


def test_batches_move_to_a_device(make_stream: Make) -> None:
    batch = Lanes(make_stream([bytes(100)]), 2, 5).at(0).to(torch.device("meta"))
    assert {part.device.type for part in vars(batch).values()} == {"meta"}
