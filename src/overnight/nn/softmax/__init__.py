"""Output layers over a vocabulary, large ones above all, behind one interface.

Each is made of ``hidden_size`` and ``vocab_size`` and takes h and the next words' ids: ``forward`` is the summed loss
that is trained, ``exact`` the summed negative log-likelihood of the softmax over all words, ``log_prob`` that softmax
itself. In evaluation mode ``forward`` is ``exact``, whatever is trained.

Shape suffixes: N tokens (time steps × lanes), D width of h, V vocabulary, S samples, R rows of a step.
"""

from overnight.nn.softmax.adaptive import AdaptiveSoftmax
from overnight.nn.softmax.base import Output
from overnight.nn.softmax.full import FullSoftmax
from overnight.nn.softmax.nce import NCE
from overnight.nn.softmax.sampled import SampledSoftmax
from overnight.nn.softmax.samplers import Draw, LogUniform, Sampler, Unigram

__all__ = [
    "NCE",
    "AdaptiveSoftmax",
    "Draw",
    "FullSoftmax",
    "LogUniform",
    "Output",
    "SampledSoftmax",
    "Sampler",
    "Unigram",
]
