"""Additive attention, one query and one word at a time, in NumPy float64 (Bahdanau et al. 2015, normalised)."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def additive_attention(
    query_UQ: Array,
    key_TK: Array,
    query_weight_AQ: Array,
    key_weight_AK: Array,
    energy_A: Array,
    gain: float | None,
    bias_A: Array | None,
) -> tuple[Array, Array]:
    """Context [U, K] and weights [U, T] of one sentence."""
    vector = energy_A if gain is None else gain * energy_A / np.sqrt((energy_A**2).sum())
    shift = np.zeros_like(energy_A) if bias_A is None else bias_A
    contexts, weights = [], []
    for query in query_UQ:
        energies = [vector @ np.tanh(query_weight_AQ @ query + key_weight_AK @ key + shift) for key in key_TK]
        shares = np.exp(np.array(energies) - max(energies))
        shares /= shares.sum()
        weights.append(shares)
        contexts.append(sum(share * key for share, key in zip(shares, key_TK, strict=True)))
    return np.array(contexts), np.array(weights)
