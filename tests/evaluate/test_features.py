"""Features, traces and bits against the model read one text and one byte at a time; blocks, cache, files, bad input."""

import html
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate.byte_models import small_model, small_network
from hypothesis import given
from hypothesis import strategies as st

from overnight.errors import UserError
from overnight.evaluate import extraction, texts
from overnight.evaluate.framing import frame
from overnight.evaluate.load import ByteModel
from overnight.models.byte_reader import ByteReader

TEXTS: list[str | bytes] = [
    "a fine film",
    "",
    "x",
    b"\xff\xfe no UTF-8 \xc3",
    "NUL \x00 inside",
    "caf\u00e9 \u2014 d\u00e9j\u00e0 vu \U0001f600",
    "lines\nand &amp; entities &lt;br&gt; ",
    "\ud800 lone, \udcff escaped",
    b"",
    "long " * 300,
]


def double_model() -> ByteModel:
    """In float64, so that 1,500 steps in another order of sums are the same to float32."""
    return ByteModel(small_network().double(), torch.device("cpu"), {}, 0, None)


def alone(model: ByteModel, text: str | bytes) -> np.ndarray:
    """Cell states [T, L, H] of one text, read a byte at a time by the model itself."""
    carry, found = None, []
    for byte in frame(text):
        _, carry = model.model.hidden(torch.tensor([[byte]]), carry)
        found.append(carry["c"][0].numpy())
    return np.stack(found)


@given(st.text())
def test_framing_is_the_published_one(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    assert frame(text) == ("\n " + html.unescape(text).replace("\n", " ").strip() + " ").encode()
    assert frame(text.encode()) == frame(text)


@given(st.binary())
def test_framing_refuses_no_bytes(data: bytes) -> None:
    framed = frame(data)
    assert framed.startswith(b"\n ")
    assert framed.endswith(b" ")
    assert framed == frame(data.decode("utf-8", "surrogateescape"))


def test_framing_keeps_what_is_no_utf8() -> None:
    assert frame(b"\xff\x00\xc3") == b"\n \xff\x00\xc3 "
    assert frame("\ud800\udcff") == b"\n \xed\xa0\x80\xff "
    assert frame("") == b"\n  "


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("lanes", [1, 3, 100])
def test_each_text_as_if_read_alone(layer: int, lanes: int) -> None:
    model = double_model()
    cells = [alone(model, text)[:, layer] for text in TEXTS]
    options: dict[str, Any] = {"layer": layer, "lanes": lanes, "precision": "fp32"}
    for pool, expected in (
        ("last", [c[-1] for c in cells]),
        ("mean", [c.mean(0) for c in cells]),
        ("max", [c.max(0) for c in cells]),
    ):
        found = model.features(TEXTS, pool=pool, **options)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-6)
        bounded = model.features(TEXTS, pool=pool, tanh=True, **options)
        np.testing.assert_allclose(bounded, np.tanh(np.stack(expected)), rtol=0, atol=1e-6)


def test_bf16_is_near() -> None:
    model = small_model()
    exact, near = (model.features(TEXTS, precision=precision) for precision in ("fp32", "bf16"))
    np.testing.assert_allclose(near, exact, rtol=0, atol=0.1)
    assert not np.array_equal(near, exact)


def test_states_and_traces() -> None:
    model = double_model()
    for text in TEXTS:
        expected = alone(model, text)
        np.testing.assert_allclose(model.states(text), expected[:, 1], rtol=0, atol=1e-6)
        trace = model.trace(text, 5, layer=0)
        assert trace.bytes == frame(text)
        np.testing.assert_allclose(trace.values, expected[:, 0, 5], rtol=0, atol=1e-6)


def test_bits() -> None:
    model = double_model()
    expected = []
    for text in TEXTS:
        ids = torch.tensor(list(frame(text)))
        logits, _ = model.model(ids[:-1].unsqueeze(1))
        log_p = logits[:, 0].double().log_softmax(1)
        expected.append(-log_p[torch.arange(len(ids) - 1), ids[1:]].sum().item() / math.log(2))
    for lanes in (1, 4, 64):
        np.testing.assert_allclose(model.score(TEXTS, lanes=lanes), expected, rtol=1e-9)
    assert model.score([]).shape == (0,)


def test_a_long_text_among_others() -> None:
    model = double_model()
    given = ["short", b"ab\xff" * 8_000, "also short"]
    found = model.features(given, precision="fp32", layer=0)
    np.testing.assert_allclose(found[[0, 2]], model.features(["short", "also short"], precision="fp32", layer=0))
    carry = None
    for window in torch.tensor(list(frame(given[1]))).split(4096):
        _, carry = model.model.hidden(window.unsqueeze(1), carry)
    assert carry is not None
    np.testing.assert_allclose(found[1], carry["c"][0, 0].numpy(), rtol=0, atol=1e-5)


def test_the_digest_is_of_the_weights() -> None:
    first, second, twin = small_model(0), small_model(1), small_model(0)
    assert first.digest == twin.digest != second.digest
    assert len(first.digest) == 64
    network = small_network(0)
    network.output.bias[3] += 1e-7
    assert ByteModel(network, first.device, {}, 0, None).digest != first.digest


def test_blocks_take_texts_as_they_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK_TEXTS", 4)
    model, taken = small_model(), []

    def source() -> Iterator[str]:
        for index in range(10):
            taken.append(index)
            yield f"text {index} " * (index % 3)

    blocks = model.feature_blocks(source(), precision="fp32")
    assert taken == []
    assert [len(next(blocks)), len(taken)] == [4, 5]
    rest = list(blocks)
    assert [len(block) for block in rest] == [4, 2]
    whole = model.features([f"text {index} " * (index % 3) for index in range(10)], precision="fp32")
    np.testing.assert_allclose(np.concatenate(rest), whole[4:], rtol=0, atol=1e-6)


def test_blocks_of_long_texts_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK_BYTES", 100)
    sizes = [len(block) for block in texts.framed_blocks(["x" * 40, "x" * 40, "x" * 40, "x" * 500, "x"])]
    assert sizes == [2, 1, 1, 1]


class Counted:
    """Counts the texts that are really read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts = 0
        original = extraction.cell_states

        def counted(reader: ByteReader, framed: list[bytes], **options: Any) -> Any:
            self.texts += len(framed)
            return original(reader, framed, **options)

        monkeypatch.setattr(extraction, "cell_states", counted)


def test_the_cache_is_by_content_model_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = small_model(), Counted(monkeypatch)
    first = model.features(TEXTS, cache=tmp_path)
    assert read.texts == len(TEXTS)
    for again in (model, small_model()):
        np.testing.assert_array_equal(again.features(iter(TEXTS), cache=tmp_path), first)
    np.testing.assert_array_equal(model.features(TEXTS, cache=tmp_path, tanh=True), np.tanh(first))
    np.testing.assert_array_equal(model.features(TEXTS, cache=tmp_path, layer=1), first)
    assert read.texts == len(TEXTS)
    others: list[dict[str, Any]] = [{"layer": 0}, {"pool": "mean"}, {"precision": "bf16"}, {"precision": "fp32"}]
    for count, options in enumerate(others[:3], start=2):
        model.features(TEXTS, cache=tmp_path, **options)
        assert read.texts <= count * len(TEXTS)
    before = read.texts
    model.features([*TEXTS, "one more"], cache=tmp_path)
    small_model(1).features(TEXTS, cache=tmp_path)
    assert read.texts == before + 2 * len(TEXTS) + 1
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not an array"])
def test_a_damaged_cache_file_is_made_anew(damage: bytes, tmp_path: Path) -> None:
    model = small_model()
    first = model.features(TEXTS, cache=tmp_path)
    (file,) = tmp_path.rglob("*.npy")
    whole = file.read_bytes()
    for content in (damage, whole[:-100]):
        file.write_bytes(content)
        np.testing.assert_array_equal(model.features(TEXTS, cache=tmp_path), first)
        assert file.read_bytes() == whole


def test_a_stopped_job_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK_TEXTS", 3)
    model, read = small_model(), Counted(monkeypatch)
    next(model.feature_blocks(TEXTS, cache=tmp_path))
    model.features(TEXTS, cache=tmp_path)
    assert read.texts == len(TEXTS)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(texts, "BLOCK_TEXTS", 3)
    model = small_model()
    expected = model.features(TEXTS, tanh=True)
    assert model.save_features(iter(TEXTS), tmp_path / "f.npy", tanh=True) == len(TEXTS)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert (mapped.dtype, mapped.shape) == (np.float32, expected.shape)
    np.testing.assert_array_equal(mapped, expected)
    assert model.save_features(TEXTS, tmp_path / "f.parquet", tanh=True) == len(TEXTS)
    table = parquet.read_table(tmp_path / "f.parquet")
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), expected)
    assert table.schema.metadata[b"model_digest"].decode() == model.digest
    assert model.save_features([], tmp_path / "none.npy") == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 24)
    assert model.save_features([], tmp_path / "none.parquet") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.parquet", "none.npy", "none.parquet"]


@pytest.mark.parametrize("name", ["f.npy", "f.parquet"])
def test_nothing_half_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK_TEXTS", 3)
    model = small_model()
    (tmp_path / name).write_bytes(b"what was there")
    with pytest.raises(UserError, match=r"Text 7 is None, a NoneType"):
        model.save_features([*["good"] * 7, None], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"what was there"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to stand for a full disk")
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_full_disk_is_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def full(self: Path, mode: str = "r", *rest: Any) -> Any:
        return original(Path("/dev/full") if mode == "wb" else self, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    model = small_model()
    with pytest.raises(UserError, match="cannot be written"):
        model.save_features(TEXTS, tmp_path / f"f{suffix}")
    with pytest.raises(UserError, match=r"cache .* cannot be written"):
        model.features(TEXTS, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda m: m.features(["a"], layer=2), "layer=2: the model has 2 layers"),
        (lambda m: m.features(["a"], layer=-3), "layer=-3"),
        (lambda m: m.features(["a"], pool="sum"), "pool='sum'"),
        (lambda m: m.features(["a"], lanes=0), "lanes=0"),
        (lambda m: m.features(["a"], precision="int8"), "'int8' is not a precision"),
        (lambda m: m.features("a"), "One text was given"),
        (lambda m: m.features(b"a"), "One text was given"),
        (lambda m: m.features(3), "A int holds no texts"),
        (lambda m: m.features(["a", 3.5]), "Text 1 is 3.5, a float"),
        (lambda m: m.features(np.array([["a", "b"]])), r"a table of shape \(1, 2\)"),
        (lambda m: m.score(["a"], lanes=0), "lanes=0"),
        (lambda m: m.score("a"), "One text was given"),
        (lambda m: m.trace("a", 24), "unit=24: the model has 24 units"),
        (lambda m: m.trace("a", -1), "unit=-1"),
        (lambda m: m.trace("a", 0, layer=7), "layer=7"),
        (lambda m: m.states("a", layer=7), "layer=7"),
        (lambda m: m.save_features(["a"], "f.csv"), "does not tell a format"),
        (lambda m: m.save_features(["a"], "nowhere/f.npy"), "folder nowhere does not exist"),
        (lambda m: list(m.generate("a", 5, fix_units={24: 1.0})), "unit=24"),
        (lambda m: list(m.generate("a", 5, fix_units={3: math.nan})), "cannot be fixed at nan"),
        (lambda m: list(m.generate("a", 5, fix_units={3: 1.0}, layer=5)), "layer=5"),
    ],
)
def test_bad_input_is_named(call: Any, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem):
        call(small_model())
    assert list(tmp_path.iterdir()) == []


def test_one_column_of_an_array() -> None:
    model = small_model()
    expected = model.features(["a", "b"])
    np.testing.assert_array_equal(model.features(np.array([["a"], ["b"]], dtype=object)), expected)
    np.testing.assert_array_equal(model.features(np.array(["a", "b"])), expected)


def test_text_continued() -> None:
    model = small_model()
    pieces = list(model.generate("a", 40, seed=1))
    assert "".join(pieces) == "".join(model.generate(b"a", 40, seed=1))
    assert len(list(model.generate("\ud800\udcff\x00", 5, temperature=0))) >= 1
    assert "".join(pieces) != "".join(model.generate("a", 40, seed=1, fix_units={3: 4.0, 5: -4.0}))
