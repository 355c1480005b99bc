"""Held-out windows: every byte is scored exactly once, after the byte before it, with the state reset where it must."""

from collections.abc import Callable

import pytest
import torch

from overnight.data.corpus import ByteStream
from overnight.errors import UserError
from overnight.evaluate.windows import HeldOutWindows

Make = Callable[..., ByteStream]


def counting(size: int) -> bytes:
    """Bytes that say where they stand."""
    return bytes(range(size))


@pytest.mark.parametrize("size", [1, 2, 7, 63, 101, 256])
@pytest.mark.parametrize("lanes", [1, 2, 5, 64, 300])
@pytest.mark.parametrize(("length", "warm_up"), [(1, 0), (7, 3), (63, 63), (1000, 10), (5, 400)])
def test_every_byte_is_scored_once_after_the_one_before(
    make_stream: Make, size: int, lanes: int, length: int, warm_up: int
) -> None:
    data = counting(size)
    windows = HeldOutWindows(
        make_stream([data[: size // 3]], [data[size // 3 :]]), lanes=lanes, length=length, warm_up=warm_up
    )
    found: list[int] = []
    for window in windows:
        scored = window.scored_TB
        targets, inputs = window.target_TB[scored], window.input_TB[scored]
        assert torch.equal(inputs, (targets - 1) % size)
        assert torch.equal(window.opening_TB[scored], targets == 0)
        found += targets.tolist()
    assert sorted(found) == list(range(size))
    assert windows.bytes == size


@pytest.mark.parametrize("reset", ["shard", "document", "never"])
@pytest.mark.parametrize("lanes", [1, 3, 50])
def test_state_is_reset_where_its_unit_starts(make_stream: Make, reset: str, lanes: int) -> None:
    data = counting(120)
    stream = make_stream([data[:10], data[10:35]], [], [data[35:70], b"", data[70:100]], [data[100:]])
    starts = {"shard": {0, 35, 100}, "document": {0, 10, 35, 70, 100}, "never": {0}}[reset]
    for window in HeldOutWindows(stream, lanes=lanes, length=16, reset=reset, warm_up=20):
        expected = torch.tensor([[byte in starts for byte in row] for row in window.input_TB.tolist()])
        assert torch.equal(window.reset_TB, expected)


def test_lanes_are_contiguous_from_window_to_window(make_stream: Make) -> None:
    read = torch.cat([window.input_TB for window in HeldOutWindows(make_stream([counting(250)]), lanes=4, length=9)])
    assert torch.equal(read[1:], (read[:-1] + 1) % 250)


@pytest.mark.parametrize("ranks", [1, 2, 3, 70])
def test_ranks_share_the_bytes(make_stream: Make, ranks: int) -> None:
    stream, lanes = make_stream([counting(200)]), 64
    found: list[int] = []
    for rank in range(ranks):
        first = lanes * rank // ranks
        count = lanes * (rank + 1) // ranks - first
        share = HeldOutWindows(stream, lanes=lanes, length=11, first=first, count=count)
        found += [byte for window in share for byte in window.target_TB[window.scored_TB].tolist()]
    assert sorted(found) == list(range(200))


@pytest.mark.parametrize("settings", [{"lanes": 0}, {"length": 0}, {"warm_up": -1}, {"reset": "page"}])
def test_settings_out_of_range(make_stream: Make, settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        HeldOutWindows(make_stream([b"text"]), **settings)  # type: ignore[arg-type]


def test_nothing_to_evaluate(make_stream: Make) -> None:
    for stream in (make_stream(), make_stream([b""])):
        with pytest.raises(UserError, match="no held-out bytes"):
            HeldOutWindows(stream)
