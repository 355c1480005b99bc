"""Ratings with something to learn, the same on every machine and Python; and the autoencoder over a dense matrix."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.models.autoencoder import RatingAutoencoder


def triples(users: int = 40, items: int = 25, seed: int = 7) -> list[tuple[int, int, float, int]]:
    """User, item, rating from -3 to 3 in halves (0 among them) and time; each user rates some of the items."""
    found, state = [], seed
    for user in range(users):
        for item in range(items):
            state = (state * 1103515245 + 12345) % (1 << 31)
            if (state >> 16) % 3 == 0:
                liked = 1.5 if (user % 4 == item % 4) else -0.5
                noise = ((state >> 20) % 5 - 2) / 2
                found.append((user, item, liked + noise + (item % 3 - 1) / 2, 1_000_000_000 + (state >> 8) % 100_000))
    return found


def write_ratings(path: Path, users: int = 40, items: int = 25) -> Path:
    """``triples`` as a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"u{user},i{item},{rating},{time}\n" for user, item, rating, time in triples(users, items)]
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(lines))
    return path


def dense_autoencoder(model: RatingAutoencoder, x_Bn: Tensor, mask_Bn: Tensor) -> Tensor:
    """[B, n] by products with whole matrices, x being 0 where the mask is: the paper's formula."""
    rest, user_bias = x_Bn, x_Bn.new_zeros(len(x_Bn), 1)
    if model.mean is not None and model.item_bias is not None:
        rest = (x_Bn - model.mean - model.item_bias) * mask_Bn
        user_bias = rest.sum(1, keepdim=True) / (mask_Bn.sum(1, keepdim=True) + model.damping)
        rest = (rest - user_bias) * mask_Bn
    if model.normalized:
        rest = rest / mask_Bn.sum(1, keepdim=True).clamp_min(1).sqrt()
    z = (rest / model.scale) @ model.input
    if model.implicit is not None:
        z = z + (mask_Bn / mask_Bn.sum(1, keepdim=True).clamp_min(1).sqrt()) @ model.implicit
    z = model.activate(z + model.input_bias)
    layers = [(layer.weight, layer.bias) for layer in model.encoder]
    for weight, bias in layers:
        z = model.activate(z @ weight.T + bias)
    if model.tied:
        back = [(w.T, b) for (w, _), b in zip(reversed(layers), model.decoder_biases, strict=True)]
    else:
        back = [(layer.weight, layer.bias) for layer in model.decoder]
    for weight, bias in back:
        z = model.activate(z @ weight.T + bias)
    out = z @ (model.input if model.tied else model.output).T + model.output_bias
    out = (model.activate(out) if model.last_activation else out) * model.scale
    if model.mean is None or model.item_bias is None:
        return out
    return out + model.mean + model.item_bias + user_bias


def ragged(mask_Bn: npt.NDArray[np.bool_], x_Bn: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, items and values of the cells where the mask is."""
    rows, items = np.nonzero(mask_Bn)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(mask_Bn)))])
    return torch.from_numpy(offsets), torch.from_numpy(items), torch.from_numpy(x_Bn[rows, items])
