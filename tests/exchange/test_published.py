"""The fifteen published arrays: in, against the equations in NumPy, and out again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from exchange.making import TEXT, Array, arrays, model_of, snapshot, write_arrays, write_run
from oracles.published import from_arrays

import overnight
from overnight.errors import UserError
from overnight.evaluate.framing import frame
from overnight.exchange import export_model, import_model

SIZES = [(64, 16), (5, 24), (3, 1), (9, 7)]


@pytest.mark.parametrize(("width", "hidden"), SIZES)
def test_the_imported_model_is_the_published_one(width: int, hidden: int, tmp_path: Path) -> None:
    found = arrays(width, hidden)
    import_model(write_arrays(tmp_path / "in", found), tmp_path / "run")
    model = overnight.load(tmp_path / "run", device="cpu").model.double()
    logits_TV, cells_TH = from_arrays(found, TEXT)
    got, carry = model(torch.tensor(TEXT)[:, None])
    np.testing.assert_allclose(got[:, 0], logits_TV, rtol=0, atol=1e-9)
    np.testing.assert_allclose(carry["c"][0, 0], cells_TH[-1], rtol=0, atol=1e-9)


def test_features_of_an_imported_model_are_the_published_ones(tmp_path: Path) -> None:
    found = arrays(10, 12)
    import_model(write_arrays(tmp_path / "in", found), tmp_path / "run")
    texts = ["Great &amp; cheap", "x", "naïve"]
    features = overnight.load(tmp_path / "run", device="cpu").features(texts, precision="fp32")
    expected = [from_arrays(found, list(frame(text)))[1][-1] for text in texts]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "hidden"), SIZES)
def test_round_trip_is_exact(width: int, hidden: int, tmp_path: Path) -> None:
    found = arrays(width, hidden)
    import_model(write_arrays(tmp_path / "in", found), tmp_path / "run")
    made = export_model(tmp_path / "run", "npy", tmp_path / "out")
    assert list(made.differences.values()) == [0.0]
    assert snapshot(tmp_path / "out") == {f"{index}.npy" for index in range(15)}
    for index, array in enumerate(found):
        again = np.load(tmp_path / "out" / f"{index}.npy")
        assert again.dtype == np.float32
        assert again.tobytes() == array.tobytes(), index


def test_a_model_of_ours_goes_out_and_comes_back(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", hidden_size=10, embedding_size=6)
    export_model(run, "npy", tmp_path / "out")
    import_model(tmp_path / "out", tmp_path / "again")
    assert overnight.load(tmp_path / "again").digest == overnight.load(run).digest
    logits_TV, _ = from_arrays([np.load(tmp_path / "out" / f"{index}.npy") for index in range(15)], TEXT)
    ours, _ = model_of(hidden_size=10, embedding_size=6)(torch.tensor(TEXT)[:, None])
    np.testing.assert_allclose(ours[:, 0], logits_TV, rtol=0, atol=1e-5)


def test_a_model_without_weight_norm_gets_gains(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", hidden_size=10, embedding_size=6, weight_norm=False)
    made = export_model(run, "npy", tmp_path / "out")
    assert 0 <= made.differences["the arrays"] < 1e-5
    wx, gain = np.load(tmp_path / "out" / "1.npy"), np.load(tmp_path / "out" / "9.npy")
    np.testing.assert_allclose(np.linalg.norm(wx, axis=0), gain, rtol=1e-6)


def test_half_and_double_precision_arrays(tmp_path: Path) -> None:
    found = arrays(4, 6)
    half = [array.astype(np.float16) for array in found]
    for name, kind in (("half", half), ("double", [array.astype(np.float64) for array in half])):
        import_model(write_arrays(tmp_path / name, kind), tmp_path / f"run-{name}")  # type: ignore[arg-type]
    digests = {overnight.load(tmp_path / f"run-{name}").digest for name in ("half", "double")}
    assert len(digests) == 1


def test_a_column_of_zeros_is_no_nan(tmp_path: Path) -> None:
    found = arrays(5, 6)
    found[1][:, 3] = 0.0
    found[7][:, 2] = 0.0
    import_model(write_arrays(tmp_path / "in", found), tmp_path / "run")
    logits, _ = overnight.load(tmp_path / "run", device="cpu").model(torch.tensor(TEXT)[:, None])
    np.testing.assert_allclose(logits[:, 0], from_arrays(found, TEXT)[0], rtol=0, atol=2e-5)
    export_model(tmp_path / "run", "npy", tmp_path / "out")


def refused(source: Path, out: Path) -> str:
    before = snapshot(out.parent)
    with pytest.raises(UserError) as caught:
        import_model(source, out)
    assert snapshot(out.parent) == before
    return str(caught.value)


@pytest.mark.parametrize("missing", [[0], [5, 12], [14]])
def test_missing_arrays_are_named(missing: list[int], tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "in", arrays(5, 6))
    for index in missing:
        (folder / f"{index}.npy").unlink()
    said = refused(folder, tmp_path / "run")
    assert f"has no {', '.join(f'{index}.npy' for index in missing)}; the layout is 0.npy to 14.npy" in said


@pytest.mark.parametrize("junk", [b"", b"no array", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_told_in_one_sentence(junk: bytes, tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "in", arrays(5, 6))
    (folder / "3.npy").write_bytes(junk)
    said = refused(folder, tmp_path / "run")
    assert said == f"{folder / '3.npy'} is no whole array of numbers in NumPy's format. Get the file again."


@pytest.mark.parametrize("index", range(15))
def test_every_array_must_have_its_shape(index: int, tmp_path: Path) -> None:
    found = arrays(5, 6)
    found[index] = np.concatenate([found[index], found[index][:1]])
    said = refused(write_arrays(tmp_path / "in", found), tmp_path / "run")
    named = 1 if index == 7 else index  # what other arrays are measured by is found out through the first of them
    assert f"{named}.npy has shape" in said
    assert "it must be" in said


@pytest.mark.parametrize("index", [0, 7])
def test_arrays_that_sizes_come_from_must_be_matrices(index: int, tmp_path: Path) -> None:
    found = arrays(5, 6)
    found[index] = found[index].ravel()
    assert f"{index}.npy has shape" in refused(write_arrays(tmp_path / "in", found), tmp_path / "run")


@pytest.mark.parametrize("index", range(15))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(index: int, value: float, tmp_path: Path) -> None:
    found = arrays(3, 2)
    found[index].flat[0] = value
    said = refused(write_arrays(tmp_path / "in", found), tmp_path / "run")
    assert f"{index}.npy holds 1 of {found[index].size:,} numbers that are NaN" in said


def test_numbers_too_large_for_float32(tmp_path: Path) -> None:
    found: list[Array] = arrays(3, 2)
    found[8] = np.full(8, 1e300)  # type: ignore[assignment]
    assert "8.npy holds 8 of 8 numbers" in refused(write_arrays(tmp_path / "in", found), tmp_path / "run")


def test_files_that_are_no_arrays_of_numbers(tmp_path: Path) -> None:
    for name, content in (("text", b"hello"), ("empty", b""), ("cut", None)):
        folder = write_arrays(tmp_path / name, arrays(3, 2))
        file = folder / "4.npy"
        file.write_bytes(file.read_bytes()[:-3] if content is None else content)
        assert f"{file} is no whole array of numbers in NumPy's format" in refused(folder, tmp_path / "run")
    folder = write_arrays(tmp_path / "objects", arrays(3, 2))
    np.save(folder / "4.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    assert "4.npy is no whole array of numbers in NumPy's format" in refused(folder, tmp_path / "run")
    np.save(folder / "4.npy", np.zeros((2, 2), dtype=np.int64))
    assert "4.npy holds int64, not floating-point numbers" in refused(folder, tmp_path / "run")


def test_two_layers_do_not_fit_the_layout(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", hidden_size=8, embedding_size=4, layers=2)
    with pytest.raises(UserError, match="The model has 2 layers; the npy layout holds one"):
        export_model(run, "npy", tmp_path / "out")
    assert snapshot(tmp_path).isdisjoint({"out"})
