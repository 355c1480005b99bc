"""Held-out bits per byte: equal to reading the bytes one by one, however they are cut."""

import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from overnight.data.corpus import ByteStream
from overnight.errors import UserError
from overnight.evaluate.heldout import BLOCK_BYTES, BlockSums, evaluate_heldout
from overnight.models.byte_lm import ByteLM

Make = Callable[..., ByteStream]


def words(size: int, seed: int = 0) -> bytes:
    """Bytes with some order in them."""
    generator = np.random.default_rng(seed)
    return np.cumsum(generator.integers(0, 5, size)).astype(np.uint8).tobytes()


def plain(model: ByteLM, data: bytes, starts: set[int]) -> float:
    """Bits per byte from one forward a byte, as one would write it down first."""
    bits, carry = 8.0, None
    with torch.no_grad():
        for position in range(len(data) - 1):
            reset = torch.tensor([[position in starts]])
            logits, carry = model(torch.tensor([[data[position]]]), carry, reset)
            bits -= logits[0, 0].log_softmax(0)[data[position + 1]].item() / math.log(2)
    return bits / len(data)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one byte, so that a short stream may have many lanes."""
    monkeypatch.setattr("overnight.evaluate.heldout.BLOCK_BYTES", 1)


@pytest.mark.parametrize("length", [1, 7, 63, 5000])
def test_one_lane_is_plain_sequential_evaluation(make_stream: Make, opinionated: ByteLM, length: int) -> None:
    data = words(701)
    stream = make_stream([data[:100], data[100:250]], [data[250:]])
    for reset, starts in (("shard", {0, 250}), ("document", {0, 100, 250}), ("never", {0})):
        found = evaluate_heldout(opinionated, stream, lanes=1, length=length, reset=reset)
        assert found.bytes == len(data)
        assert found.bits_per_byte == pytest.approx(plain(opinionated, data, starts), rel=1e-6)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("lanes", [2, 5, 64, 999])
@pytest.mark.parametrize("length", [7, 101, 512])
def test_lanes_change_nothing_once_their_state_is_warm(
    make_stream: Make, opinionated: ByteLM, lanes: int, length: int
) -> None:
    data = words(999)
    documents = [data[start : start + 37] for start in range(0, len(data), 37)]
    stream = make_stream(documents[:9], documents[9:])
    one = evaluate_heldout(opinionated, stream, lanes=1, reset="document")
    many = evaluate_heldout(opinionated, stream, lanes=lanes, length=length, reset="document", warm_up=37)
    assert many.lanes == lanes
    assert many.bits_per_byte == pytest.approx(one.bits_per_byte, rel=1e-6)
    cold = evaluate_heldout(opinionated, stream, lanes=lanes, length=length, reset="document", warm_up=0)
    assert cold.bits_per_byte != pytest.approx(one.bits_per_byte, rel=1e-5)


@pytest.mark.parametrize(("blocks", "lanes"), [(0.5, 1), (1.9, 1), (3.5, 3), (9.0, 5)])
def test_no_lane_is_shorter_than_a_block(make_stream: Make, blocks: float, lanes: int) -> None:
    size = int(blocks * BLOCK_BYTES)
    found = evaluate_heldout(Fixed(torch.zeros(256)), make_stream([bytes(size)]), lanes=5)
    assert (found.lanes, found.bytes) == (lanes, size)


def test_ranks_whose_lanes_are_not_read_add_nothing(make_stream: Make) -> None:
    stream = make_stream([words(3 * BLOCK_BYTES + 7)])
    shares = [
        evaluate_heldout(Fixed(torch.zeros(256)), stream, lanes=8, first=first, count=2).bytes for first in (0, 2, 4, 6)
    ]
    assert sum(shares) == len(stream)
    assert [share > 0 for share in shares] == [True, True, False, False]


def test_the_interval_covers_the_truth_of_a_short_stream(make_stream: Make) -> None:
    """Text whose rate drifts over thousands of bytes: blocks cut short by 64 lanes would be alike to each other."""
    logits = torch.zeros(256)
    logits[0] = 6.0
    generator = np.random.default_rng(0)
    cost = -logits.double().log_softmax(0) / math.log(2)
    truth = 0.5 * float(cost[0] + cost[1])
    covered = 0
    for _ in range(100):
        share = np.repeat(generator.choice([0.3, 0.7], 40), 5120)
        data = (generator.random(len(share)) < share).astype(np.uint8).tobytes()
        found = evaluate_heldout(Fixed(logits), make_stream([data]), lanes=64, warm_up=0)
        covered += found.low <= truth <= found.high
    assert covered >= 85


@pytest.mark.usefixtures("short_blocks")
def test_ranks_add_up(make_stream: Make, opinionated: ByteLM) -> None:
    stream = make_stream([words(2003)])
    whole = evaluate_heldout(opinionated, stream, lanes=10, length=64)
    sums: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        sums.append(values.clone())
        return values

    for first, count in ((0, 3), (3, 3), (6, 4)):
        evaluate_heldout(opinionated, stream, lanes=10, length=64, first=first, count=count, add_over_ranks=keep)
    together = sum(sums[1:], start=sums[0])
    shared = evaluate_heldout(
        opinionated, stream, lanes=10, length=64, first=0, count=3, add_over_ranks=lambda _: together
    )
    assert shared.bytes == whole.bytes == 2003
    for ours, theirs in zip(astuple(shared)[:3], astuple(whole)[:3], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)  # float32 products of other widths


@pytest.mark.usefixtures("short_blocks")
def test_a_rank_without_lanes_adds_nothing(make_stream: Make, opinionated: ByteLM) -> None:
    found = evaluate_heldout(opinionated, make_stream([words(100)]), lanes=2, first=2, count=0)
    assert found.bytes == 0
    assert math.isnan(found.bits_per_byte)


class Fixed(nn.Module):
    """Gives every byte the same logits, whatever came before."""

    def __init__(self, logits_V: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_V)

    def forward(self, ids_TB: Tensor, carry: Any, reset_TB: Tensor) -> tuple[Tensor, Any]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.logits.expand(*ids_TB.shape, 256), carry


def test_uniform_prediction_costs_eight_bits(make_stream: Make) -> None:
    found = evaluate_heldout(Fixed(torch.zeros(256)), make_stream([words(30_000)]), lanes=3)
    assert (found.bits_per_byte, found.low, found.high) == pytest.approx((8.0, 8.0, 8.0), abs=1e-6)


def test_first_byte_costs_eight_bits_whatever_the_model(make_stream: Make) -> None:
    certain = torch.full((256,), -1000.0)
    certain[ord("a")] = 0.0
    found = evaluate_heldout(Fixed(certain), make_stream([b"a" * 1000]), lanes=7)
    assert found.bits_per_byte == pytest.approx(8 / 1000)


def test_block_sums_over_long_lanes(make_stream: Make) -> None:
    """The interval's blocks are contiguous bytes of one lane, BLOCK_BYTES rounded up to whole windows."""
    torch.manual_seed(0)
    model = Fixed(torch.randn(256))
    data, lanes, length = words(70_000), 2, 300
    found = evaluate_heldout(model, make_stream([data]), lanes=lanes, length=length, warm_up=length)
    cost = -model.logits.detach().double().log_softmax(0).numpy()[np.frombuffer(data, dtype=np.uint8)]
    cost[0] = math.log(256)
    block = math.ceil(BLOCK_BYTES / length) * length
    n, y = [], []
    for lane in np.split(cost, lanes):
        for start in range(0, len(lane), block):
            n.append(len(lane[start : start + block]))
            y.append(lane[start : start + block].sum())
    assert len(n) == 8
    ratio = sum(y) / sum(n)
    spread = math.sqrt(len(n) / (len(n) - 1) * sum((b - ratio * a) ** 2 for a, b in zip(n, y, strict=True))) / sum(n)
    expected = [ratio, ratio - 1.96 * spread, ratio + 1.96 * spread]
    assert [found.bits_per_byte, found.low, found.high] == pytest.approx([e / math.log(2) for e in expected], rel=1e-5)


def test_interval_covers_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        n = torch.randint(5_000, 10_000, (60,), generator=generator).double()
        rate = 1.3 + 0.2 * torch.randn(60, generator=generator, dtype=torch.float64)
        sums = BlockSums()
        sums.add(n[:20], n[:20] * rate[:20])
        sums.add(n[20:], n[20:] * rate[20:])
        _, low, high = sums.interval()
        covered += low <= 1.3 / math.log(2) <= high
    assert 930 <= covered <= 965  # 1.96 instead of Student's t costs a little at 60 blocks


def test_one_block_gives_no_interval(make_stream: Make, opinionated: ByteLM) -> None:
    found = evaluate_heldout(opinionated, make_stream([words(50)]), lanes=1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isfinite(found.bits_per_byte)


def test_autocast_is_near_full_precision(make_stream: Make) -> None:
    torch.manual_seed(0)
    model, stream = ByteLM(hidden_size=64), make_stream([words(3000)])
    full = evaluate_heldout(model, stream, lanes=8)
    half = evaluate_heldout(model, stream, lanes=8, autocast=torch.bfloat16)
    assert half.bits_per_byte == pytest.approx(full.bits_per_byte, abs=0.01)
    assert half.bits_per_byte != full.bits_per_byte


@pytest.mark.usefixtures("short_blocks")
def test_mode_is_restored_and_progress_reported(make_stream: Make) -> None:
    model, seen = Fixed(torch.zeros(256)), []
    model.train()
    evaluate_heldout(
        model, make_stream([words(1000)]), lanes=3, length=100, on_progress=lambda *args: seen.append(args)
    )
    assert model.training
    assert [total for _, total in seen] == [1000] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == 1000


def test_nothing_to_evaluate(make_stream: Make, opinionated: ByteLM) -> None:
    with pytest.raises(UserError, match="no held-out bytes"):
        evaluate_heldout(opinionated, make_stream([]))
