"""SEBOOST and its family: a buffer of past displacements, and a rule for their coefficients.

| rule | what it is |
|---|---|
| ``NonlinearCG`` | SEBOOST as published: conjugate gradients on the loss of one batch |
| ``GaussNewton`` | one damped M × M solve, from forward-mode products |
| ``Fixed`` | Lookahead |
| ``EMA``, ``SWA``, ``LAWA`` | averages of past points |
| ``Anderson`` | Anderson acceleration |
"""

from overnight.optim.subspace.conjugate_gradients import NonlinearCG
from overnight.optim.subspace.gauss_newton import GaussNewton
from overnight.optim.subspace.rules import EMA, LAWA, SWA, Anderson, CoefficientRule, Fixed
from overnight.optim.subspace.search import Boost
from overnight.optim.subspace.seboost import SEBoost

__all__ = [
    "EMA",
    "LAWA",
    "SWA",
    "Anderson",
    "Boost",
    "CoefficientRule",
    "Fixed",
    "GaussNewton",
    "NonlinearCG",
    "SEBoost",
]
