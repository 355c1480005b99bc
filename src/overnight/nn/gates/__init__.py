"""Gate maps: how the pre-activations of a recurrent cell come from its input x and its last output h.

A gate map owns the parameters. Once per call it is folded (weight normalisation applied, weights cast), and the folded
form does the work: ``project`` for all time steps at once, ``preactivation`` inside the loop.

Every map has an ``output_size``: the width of h. Where it is not the number of units H, the recurrence projects,
h_t = P (σ(o) tanh(c_t)) with P [out, H] and no bias (Sak et al. 2014, LSTMP; ``nn.LSTM``'s ``proj_size``). P belongs to
``overnight.nn.recurrence.Recurrent``, not to the map.

Shape suffixes: T time, B batch (lanes), D input width, H hidden (units), N = width of h (H, or that of the projection),
G = 4H gates (order i, f, g, o as in ``nn.LSTM``), P = width of a projected input, R rank, K groups, O and I a matrix's
output and input width.
"""

from overnight.nn.gates.dense import DenseGates, FoldedDense
from overnight.nn.gates.factorized import FactorizedGates, FoldedFactorized
from overnight.nn.gates.grouped import FoldedGrouped, GroupedGates
from overnight.nn.gates.matrix import Matrix
from overnight.nn.gates.multiplicative import FoldedMultiplicative, MultiplicativeGates
from overnight.nn.gates.protocol import Folded, GateMap

__all__ = [
    "DenseGates",
    "FactorizedGates",
    "Folded",
    "FoldedDense",
    "FoldedFactorized",
    "FoldedGrouped",
    "FoldedMultiplicative",
    "GateMap",
    "GroupedGates",
    "Matrix",
    "MultiplicativeGates",
]
