"""Baselines are what the programs they are named after give."""

import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from overnight.data.corpus import ByteStream
from overnight.errors import UserError
from overnight.evaluate.baselines import baselines

Make = Callable[..., ByteStream]


def text(size: int) -> bytes:
    generator = np.random.default_rng(0)
    vocabulary = [bytes(generator.integers(97, 123, generator.integers(2, 9), dtype=np.uint8)) for _ in range(500)]
    data = b" ".join(vocabulary[index] for index in generator.zipf(1.3, size // 4) % 500)
    return data[:size]


def test_sizes_are_the_compressors_own(make_stream: Make) -> None:
    data = text(1_300_000)  # more than one chunk
    stream = make_stream([data[:1000]], [data[1000:]])
    found = {item.name: item for item in baselines(stream)}
    assert list(found) == ["order-0 entropy", "gzip -9", "xz -9e"]
    assert {item.bytes for item in found.values()} == {len(data)}
    assert found["gzip -9"].bits_per_byte * len(data) / 8 == pytest.approx(len(gzip.compress(data, 9)))
    whole = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert found["xz -9e"].bits_per_byte * len(data) / 8 == pytest.approx(len(whole))


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"aaaa", 0.0), (b"abab", 1.0), (bytes(range(256)) * 3, 8.0), (b"aaab", 0.811278)],
)
def test_order_0_entropy(make_stream: Make, data: bytes, expected: float) -> None:
    assert baselines(make_stream([data]))[0].bits_per_byte == pytest.approx(expected, abs=1e-6)


def test_a_cap_is_named(make_stream: Make) -> None:
    data = text(300_000)
    found = baselines(make_stream([data]), cap_bytes=200_000)
    assert [item.name for item in found] == [
        "order-0 entropy (first 0.2 MB)",
        "gzip -9 (first 0.2 MB)",
        "xz -9e (first 0.2 MB)",
    ]
    assert found[1].bits_per_byte * 200_000 / 8 == pytest.approx(len(gzip.compress(data[:200_000], 9)))


def test_without_lzma_xz_is_left_out(make_stream: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzma", None)
    assert [item.name for item in baselines(make_stream([b"text"]))] == ["order-0 entropy", "gzip -9"]


def test_importing_does_not_need_lzma() -> None:
    code = "import sys; sys.modules['lzma'] = None; import overnight.evaluate.baselines"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_to_compress(make_stream: Make) -> None:
    with pytest.raises(UserError, match="no held-out bytes"):
        baselines(make_stream([]))
