"""Checkpoints of sentiment-discovery, against its equations in NumPy."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchange.making import TEXT, reference_state, snapshot
from oracles.published import from_reference

import overnight
from overnight.errors import UserError
from overnight.exchange import import_model


def imported(state: dict[str, Any], folder: Path, **how: Any) -> Any:
    torch.save(state, folder / "lang_model.pt", **how)
    import_model(folder / "lang_model.pt", folder / "run")
    return overnight.load(folder / "run", device="cpu").model.double()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize(("width", "hidden"), [(64, 12), (5, 9)])
def test_the_imported_model_is_the_checkpoints(
    width: int, hidden: int, weight_norm: bool, layers: int, tmp_path: Path
) -> None:
    state = reference_state(width, hidden, layers, weight_norm)
    model = imported(state, tmp_path)
    assert len(model.layers) == layers
    assert model.layers[0].gates.weight_norm is weight_norm
    logits_TV, cells_TH = from_reference(state, TEXT)
    got, carry = model(torch.tensor(TEXT)[:, None])
    np.testing.assert_allclose(got[:, 0], logits_TV, rtol=0, atol=1e-9)
    np.testing.assert_allclose(carry["c"][0, -1], cells_TH[-1], rtol=0, atol=1e-9)


def test_a_checkpoint_in_the_format_of_2018(tmp_path: Path) -> None:
    state = reference_state(6, 5)
    model = imported(state, tmp_path, _use_new_zipfile_serialization=False)
    got, _ = model(torch.tensor(TEXT)[:, None])
    np.testing.assert_allclose(got[:, 0], from_reference(state, TEXT)[0], rtol=0, atol=1e-9)


def test_half_precision_and_no_bias(tmp_path: Path) -> None:
    state = reference_state(6, 5, weight_norm=True, bias=False)
    halves = {
        "encoder": {part: {n: t.half() for n, t in tensors.items()} for part, tensors in state["encoder"].items()},
        "decoder": {n: t.half() for n, t in state["decoder"].items()},
    }
    model = imported(halves, tmp_path)
    assert not model.layers[0].gates.bias.any()
    got, _ = model(torch.tensor(TEXT)[:, None])
    assert {t.dtype for t in overnight.load(tmp_path / "run").model.state_dict().values()} == {torch.float32}
    np.testing.assert_allclose(got[:, 0], from_reference(halves, TEXT)[0], rtol=0, atol=1e-9)


def test_a_checkpoint_with_a_token_for_padding(tmp_path: Path) -> None:
    """The last versions of the code read byte b as token b + 1."""
    state = reference_state(6, 5, tokens=257)
    model = imported(state, tmp_path)
    got, _ = model(torch.tensor(TEXT)[:, None])
    assert got.shape[-1] == 256
    expected, _ = from_reference(state, [byte + 1 for byte in TEXT])
    np.testing.assert_allclose(got[:, 0], expected[:, 1:], rtol=0, atol=1e-9)


def refused(state: object, folder: Path) -> str:
    file = folder / "lang_model.pt"
    if state is not None:
        torch.save(state, file)
    with pytest.raises(UserError) as caught:
        import_model(file, folder / "run")
    assert snapshot(folder) == {"lang_model.pt"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    state = reference_state(6, 5, 2, weight_norm=True)
    del state["encoder"]["rnn"]["rnns.1.w_mih_g"], state["decoder"]["bias"]
    assert "has no decoder.bias, encoder.rnn.rnns.1.w_mih_g." in refused(state, tmp_path)


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("rnn", "rnns.0.w_ih", (20, 7)),
        ("rnn", "rnns.0.w_hh", (19, 5)),
        ("rnn", "rnns.0.w_mih", (5,)),
        ("rnn", "rnns.0.w_mhh", (5, 6)),
        ("rnn", "rnns.0.w_mhh", (5,)),
        ("rnn", "rnns.0.b_hh", (5,)),
        ("encoder", "weight", (256,)),
        ("decoder", "weight", (256, 6)),
        ("decoder", "bias", (255,)),
    ],
)
def test_wrong_shapes_are_named(part: str, name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = reference_state(6, 5)
    place = state["decoder"] if part == "decoder" else state["encoder"][part]
    place[name] = torch.ones(shape)
    said = refused(state, tmp_path)
    assert f"{name} of " in said
    assert f"has shape {shape}" in said


@pytest.mark.parametrize("tensor", [torch.tensor(torch.nan), torch.tensor(-torch.inf)])
def test_numbers_that_are_none_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    state = reference_state(6, 5)
    state["encoder"]["rnn"]["rnns.0.w_hh"][2, 3] = tensor
    assert "encoder.rnn.rnns.0.w_hh of " in (said := refused(state, tmp_path))
    assert "holds 1 of 100 numbers that are NaN" in said


def test_other_models_are_refused_by_what_they_are(tmp_path: Path) -> None:
    state = reference_state(6, 5, tokens=512)
    assert "reads 512 kinds of tokens; a byte model reads 256" in refused(state, tmp_path)

    lstm = reference_state(6, 5)
    for name in ("w_mih", "w_mhh"):
        del lstm["encoder"]["rnn"][f"rnns.0.{name}"]
    assert "holds another cell than a multiplicative LSTM" in refused(lstm, tmp_path)

    projected = reference_state(6, 5)
    projected["encoder"]["rnn"]["rnns.0.w_ho"] = torch.ones(5, 5)
    assert "holds encoder.rnn.rnns.0.w_ho, which a ByteLM has no place for" in refused(projected, tmp_path)

    assert "has no decoder: it was saved for a classifier" in refused(
        {"encoder": reference_state(6, 5)["encoder"], "classifier": {"weight": torch.ones(1, 5)}}, tmp_path
    )
    assert "is of an unknown layout: it holds weight, bias" in refused(torch.nn.Linear(2, 3).state_dict(), tmp_path)
    assert "is of an unknown layout: it holds no tensors" in refused({"epoch": 3}, tmp_path)
    assert "holds a list, not a state dict" in refused([1, 2], tmp_path)
    assert "holds a Tensor, not a state dict" in refused(torch.ones(3), tmp_path)


class Harmful:
    """What would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def test_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    state = reference_state(6, 5) | {"extra": Harmful(trace)}
    said = refused(state, tmp_path)
    assert "is not a PyTorch checkpoint of plain tensors" in said
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", pickle.dumps({"a": 1}), b"\x80\x02."])
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lang_model.pt").write_bytes(content)
    said = refused(None, tmp_path)
    assert "is not a PyTorch checkpoint of plain tensors" in said or "unknown layout" in said


def test_a_checkpoint_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "lang_model.pt"
    torch.save(reference_state(6, 5), file)
    file.write_bytes(file.read_bytes()[:-200])
    assert "is not a PyTorch checkpoint" in refused(None, tmp_path)
