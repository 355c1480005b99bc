"""PyTorch checkpoints of the reference code, NVIDIA/sentiment-discovery (Puri et al. 2018, arXiv 1808.01371).

A nested state dict: ``encoder.encoder`` (the embedding), ``encoder.rnn`` (``rnns.K`` with ``w_ih`` [4H, D], ``w_hh``
[4H, H], ``w_mih`` [H, D], ``w_mhh`` [H, H], ``b_ih`` and ``b_hh`` [4H]) and ``decoder``. While it trains, a matrix is
the pair ``…_v`` and ``…_g`` [rows, 1] of weight normalisation; the last save has the matrices themselves. The last
versions of that code read 257 tokens: a pad, which is left out here, and then the bytes.

    m = (w_mih x) ⊙ (w_mhh h);  i, f, g, o = split(w_ih x + b_ih + w_hh m + b_hh)
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.exchange.assembly import checked, model_of
from overnight.models.byte_lm import BYTES, ByteLM

MATRICES = {"w_ih": "input_to_gates", "w_hh": "m_to_gates", "w_mih": "input_to_m", "w_mhh": "hidden_to_m"}
EMBEDDING, CELL, DECODER = "encoder.encoder.weight", "encoder.rnn.rnns", "decoder"
PADS = 1
KNOWN = "the language models of NVIDIA/sentiment-discovery (RNNModel with an mLSTM)"


def read_reference(file: Path) -> ByteLM:
    """The model in a checkpoint. Nothing in the file is executed.

    Raises:
        UserError: if it is no checkpoint, holds another kind of model, or a tensor is missing, of the wrong shape or
            not finite; it names the tensor.
    """
    tensors = _flat(_load(file))
    layers = _layers(file, tensors)
    names = [EMBEDDING, f"{DECODER}.weight", f"{DECODER}.bias"]
    weight_norm = f"{CELL}.0.w_hh_v" in tensors
    forms = ("_v", "_g") if weight_norm else ("",)
    for layer in range(layers):
        names += [f"{CELL}.{layer}.{name}{form}" for name in MATRICES for form in forms]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise UserError(f"{file} has no {', '.join(missing)}.", f"Only {KNOWN} can be imported.")
    biases = [f"{CELL}.{layer}.{name}" for layer in range(layers) for name in ("b_ih", "b_hh")]
    unknown = sorted(set(tensors) - {*names, *biases})
    if unknown:
        raise UserError(f"{file} holds {', '.join(unknown[:5])}, which a ByteLM has no place for.", f"Only {KNOWN}.")
    for name in (EMBEDDING, f"{CELL}.0.w_mhh{forms[0]}"):
        if tensors[name].dim() != 2:
            raise UserError(f"{name} of {file} has shape {tuple(tensors[name].shape)}.", "It must be a matrix.")
    width, hidden = tensors[EMBEDDING].shape[-1], tensors[f"{CELL}.0.w_mhh{forms[0]}"].shape[0]
    because = f"with an embedding {width} wide and {hidden} units"

    def take(name: str, *shape: int) -> Tensor:
        return checked(f"{name} of {file}", tensors[name], shape, because)

    rows = tensors[EMBEDDING].shape[0]
    if rows not in (BYTES, BYTES + PADS):
        raise UserError(
            f"{file} reads {rows} kinds of tokens; a byte model reads {BYTES}.",
            "Give a model that was trained on bytes (--data_size 256, or the character-level tokenizer).",
        )
    pads = rows - BYTES
    state = {
        "embedding.weight": take(EMBEDDING, rows, width)[pads:],
        "output.weight": take(f"{DECODER}.weight", rows, hidden)[pads:],
        "output.bias": take(f"{DECODER}.bias", rows)[pads:],
    }
    for layer in range(layers):
        below, cell, ours = hidden if layer else width, f"{CELL}.{layer}", f"layers.{layer}.gates"
        sizes = {"w_ih": (4 * hidden, below), "w_hh": (4 * hidden, hidden)}
        sizes |= {"w_mih": (hidden, below), "w_mhh": (hidden, hidden)}
        for name, (rows, columns) in sizes.items():
            target = f"{ours}.{MATRICES[name]}.weight"
            if weight_norm:
                state[f"{target}_v"] = take(f"{cell}.{name}_v", rows, columns)
                state[f"{target}_g"] = take(f"{cell}.{name}_g", rows, 1).squeeze(1)
            else:
                state[target] = take(f"{cell}.{name}", rows, columns)
        bias_G = torch.zeros(4 * hidden)
        for name in ("b_ih", "b_hh"):
            if f"{cell}.{name}" in tensors:
                bias_G += take(f"{cell}.{name}", 4 * hidden)
        state[f"{ours}.bias"] = bias_G
    return model_of(state)


def _load(file: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the storage classes of 2018
            found = torch.load(file, map_location="cpu", weights_only=True)
    # bytes that are no pickle make the unpickler raise almost anything
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{file} is not a PyTorch checkpoint of plain tensors: {reason}",
            "Give a file that torch.save wrote of a state dict; nothing else is loaded, since it could run code.",
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__}, not a state dict.", f"Only {KNOWN} can be imported.")
    return found


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            flat[f"{prefix}{name}"] = value
    return flat


def _layers(file: Path, tensors: dict[str, Tensor]) -> int:
    """How many layers the cell has; what has none is not of this layout."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(rf"{re.escape(CELL)}\.(\d+)\.", name))}
    if not numbers or numbers != set(range(len(numbers))) or EMBEDDING not in tensors:
        some = ", ".join(list(tensors)[:5]) or "no tensors"
        raise UserError(f"{file} is of an unknown layout: it holds {some}, …", f"Only {KNOWN} can be imported.")
    if not any(name.startswith(f"{CELL}.0.w_mhh") for name in tensors):
        raise UserError(f"{file} holds another cell than a multiplicative LSTM.", f"Only {KNOWN} can be imported.")
    if f"{DECODER}.weight" not in tensors:
        raise UserError(
            f"{file} has no decoder: it was saved for a classifier, and cannot predict bytes.",
            "Give the language model's own checkpoint.",
        )
    return len(numbers)
