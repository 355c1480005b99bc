"""The published weights' layout: fifteen NumPy arrays, 0.npy … 14.npy (Radford et al. 2017, arXiv 1704.01444).

    0  embedding [256, D]      1  Wx [D, 4H]         2–5  Wh, four blocks of columns [H, H]   6  Wmx [D, H]
    7  Wmh [H, H]              8  b [4H]             9  gx [4H]    10  gh [4H]                11  gmx [H]
    12 gmh [H]                 13 Wo [H, 256]        14 bo [256]

    W = g · V / ‖V‖₂ by column;  m = (x Wmx) ⊙ (h Wmh);  i, f, o, u = split(x Wx + m Wh + b)

Matrices are [input, output] there and [output, input] here; the gates stand in the order i, f, o, u there.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.exchange.assembly import checked, from_ours, model_of, reordered
from overnight.models.byte_lm import BYTES, ByteLM
from overnight.nn.gates import Matrix, MultiplicativeGates

ORDER = "ifog"
FILES = tuple(f"{index}.npy" for index in range(15))
Array = NDArray[np.generic]


def read_published(folder: Path) -> ByteLM:
    """The model that the fifteen arrays are.

    Raises:
        UserError: if an array is missing, unreadable, of the wrong shape or kind, or not finite; it names the file.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {', '.join(missing)}; the layout is 0.npy to 14.npy.", "Get the missing files."
        )
    arrays = [_read(folder / name) for name in FILES]
    for index, what in ((0, "the embedding [256, width]"), (7, "Wmh [units, units]")):
        if arrays[index].ndim != 2 or 0 in arrays[index].shape:
            raise UserError(
                f"{folder / FILES[index]} has shape {arrays[index].shape}; it must be {what}.", "Get the file again."
            )
    width, hidden = arrays[0].shape[1], arrays[7].shape[0]
    gates = 4 * hidden
    shapes: list[tuple[int, ...]] = [(BYTES, width), (width, gates), *[(hidden, hidden)] * 4, (width, hidden)]
    shapes += [(hidden, hidden), (gates,), (gates,), (gates,), (hidden,), (hidden,), (hidden, BYTES), (BYTES,)]
    because = f"with 0.npy {width} wide and 7.npy of {hidden} units"
    found = [
        checked(str(folder / name), array, shape, because)
        for name, array, shape in zip(FILES, arrays, shapes, strict=True)
    ]
    matrices = {
        "input_to_gates": (reordered(found[1].t(), ORDER), reordered(found[9], ORDER)),
        "m_to_gates": (reordered(torch.cat(found[2:6], dim=1).t(), ORDER), reordered(found[10], ORDER)),
        "input_to_m": (found[6].t(), found[11]),
        "hidden_to_m": (found[7].t(), found[12]),
    }
    state = {
        "embedding.weight": found[0],
        "layers.0.gates.bias": reordered(found[8], ORDER),
        "output.weight": found[13].t().contiguous(),
        "output.bias": found[14],
    }
    for name, (v_OI, g_O) in matrices.items():
        state[f"layers.0.gates.{name}.weight_v"] = v_OI.contiguous()
        state[f"layers.0.gates.{name}.weight_g"] = g_O
    return model_of(state)


def write_published(model: ByteLM, folder: Path) -> None:
    """Write the fifteen arrays, float32; a matrix without weight normalisation gets its rows' norms as gains.

    Raises:
        UserError: if the model has more than one layer, for which the layout has no place.
    """
    if len(model.layers) != 1:
        raise UserError(
            f"The model has {len(model.layers)} layers; the npy layout holds one.", "Export it --to safetensors."
        )
    gates = model.layers[0].gates
    assert isinstance(gates, MultiplicativeGates)
    parts = (gates.input_to_gates, gates.m_to_gates, gates.input_to_m, gates.hidden_to_m)
    (wx, gx), (wh, gh), (wmx, gmx), (wmh, gmh) = (_directions(part) for part in parts)
    wx, gx, wh, gh, b = (from_ours(tensor, ORDER) for tensor in (wx, gx, wh, gh, gates.bias))
    tensors = [model.embedding.weight, wx.t(), *wh.t().chunk(4, dim=1), wmx.t(), wmh.t(), b, gx, gh, gmx, gmh]
    tensors += [model.output.weight.t(), model.output.bias]
    for name, tensor in zip(FILES, tensors, strict=True):
        np.save(folder / name, np.ascontiguousarray(tensor.detach().float().cpu().numpy()), allow_pickle=False)


def _directions(matrix: Matrix) -> tuple[Tensor, Tensor]:
    if matrix.weight_norm:
        return matrix.weight_v, matrix.weight_g
    return matrix.weight, matrix.weight.norm(dim=-1)


def _read(file: Path) -> Array:
    try:
        with file.open("rb") as opened:
            array: Array = np.lib.format.read_array(opened, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.", "Check the file.") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{file} is no whole array of numbers in NumPy's format.", "Get the file again.") from error
    return array
