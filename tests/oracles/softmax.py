"""Losses over a vocabulary in NumPy float64, one token at a time, with their gradients.

Full: -log softmax. Sampled: Jean et al. 2015 (1412.2007), Blanc and Rendle 2018 (1712.00527). Noise-contrastive
estimation: Mnih and Teh 2012 (1206.6426), equation 9 with k noise words shared by all tokens. Adaptive: Grave et al.
2017 (1609.04309), section 3.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gradients = tuple[float, Array, Array, Array]
"""The summed loss, and its gradient by h, W and b."""


def _gather(h: Array, weight: Array, bias: Array, parts: Sequence[tuple[float, Mapping[int, float]]]) -> Gradients:
    """From each token's loss and its gradient by the logits of some words."""
    total, dh, dw, db = 0.0, np.zeros_like(h), np.zeros_like(weight), np.zeros_like(bias)
    for n, (loss, by_logit) in enumerate(parts):
        total += loss
        for word, slope in by_logit.items():
            dh[n] += slope * weight[word]
            dw[word] += slope * h[n]
            db[word] += slope
    return total, dh, dw, db


def full(h: Array, weight: Array, bias: Array, targets: Sequence[int]) -> Gradients:
    """-log softmax(W h + b)[t]."""
    everything = dict.fromkeys(range(len(weight)), 1.0)
    return sampled(h, weight, bias, targets, everything, everything, "target")


def sampled(
    h: Array,
    weight: Array,
    bias: Array,
    targets: Sequence[int],
    times: Mapping[int, float],
    expected: Mapping[int, float],
    certain: str,
) -> Gradients:
    """The sampled softmax.

    Args:
        times: how often each drawn word was drawn.
        expected: E of every word that is drawn or a target.
        certain: "batch", "target" or "none".
    """
    parts = []
    for n, target in enumerate(targets):
        counts = {word: times[word] / expected[word] for word in times if word != target}
        if certain == "batch":
            counts |= dict.fromkeys(map(int, targets), 1.0)
        counts[target] = 1.0 / expected[target] if certain == "none" else 1.0
        scores = {word: count * np.exp(weight[word] @ h[n] + bias[word]) for word, count in counts.items()}
        total = sum(scores.values())
        by_logit = {word: score / total for word, score in scores.items()}
        by_logit[target] -= 1.0
        parts.append((-float(np.log(scores[target] / total)), by_logit))
    return _gather(h, weight, bias, parts)


def nce(
    h: Array,
    weight: Array,
    bias: Array,
    targets: Sequence[int],
    times: Mapping[int, float],
    expected: Mapping[int, float],
) -> Gradients:
    """A classifier of the target against each drawn word, with unnormalised probabilities exp(W h + b)."""
    parts = []
    for n, target in enumerate(targets):
        loss, by_logit = 0.0, dict.fromkeys([*times, target], 0.0)
        odds = {word: np.exp(weight[word] @ h[n] + bias[word]) / expected[word] for word in by_logit}
        for word, count in times.items():
            loss += count * np.log1p(odds[word])
            by_logit[word] += count * odds[word] / (1.0 + odds[word])
        loss += np.log1p(1.0 / odds[target])
        by_logit[target] -= 1.0 / (1.0 + odds[target])
        parts.append((loss, by_logit))
    return _gather(h, weight, bias, parts)


def adaptive(
    h: Array,
    head: Array,
    head_bias: Array,
    tails: Sequence[tuple[Array, Array]],
    cutoffs: Sequence[int],
    targets: Sequence[int],
) -> float:
    """Head and cluster, each a softmax; a tail is (projection [width, D], weight [words, width])."""

    def log_softmax(x: Array) -> Array:
        return np.asarray(x - np.log(np.sum(np.exp(x))))

    total = 0.0
    for n, target in enumerate(targets):
        of_head = log_softmax(head @ h[n] + head_bias)
        if target < cutoffs[0]:
            total -= of_head[target]
            continue
        cluster = sum(target >= cutoff for cutoff in cutoffs) - 1
        inner, outer = tails[cluster]
        of_cluster = log_softmax(outer @ (inner @ h[n]))
        total -= of_head[cutoffs[0] + cluster] + of_cluster[target - cutoffs[cluster]]
    return float(total)
