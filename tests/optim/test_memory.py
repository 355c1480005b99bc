"""A step needs one copy of the largest tensor beside the state, and less for the rest."""

from typing import Any
from weakref import finalize

import pytest
import torch
from optim.trajectories import PATHS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from overnight.optim import LAMB, LARS


class Peak(TorchDispatchMode):
    """Bytes that the operations inside allocate, at their most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in given | self.known:
                    self.known.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.most = max(self.most, self.live)
                    finalize(storage, self.free, storage._cdata, storage.nbytes())
        return result

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def test_the_measure_counts_what_is_alive_together() -> None:
    x = torch.ones(1000)
    with Peak() as peak:
        y = x + 1
        z = y * 2
        y.mul_(2)
        del y
        z = z + 1
    assert peak.most == 8000


@pytest.mark.parametrize("path", ["loop", "foreach", "fused"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(LAMB, {}), (LAMB, {"variant": "author"}), (LAMB, {"adapt": False}), (LARS, {}), (LARS, {"variant": "larc"})],
    ids=str,
)
def test_at_most_one_copy_of_the_largest_tensor(kind: Any, options: dict[str, Any], path: str) -> None:
    ps = [
        nn.Parameter(torch.ones(shape)) for shape in ((1 << 18,), (300, 400), (100, 500), (1 << 18,), (3,), (200, 900))
    ]
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer = kind(ps, lr=0.1, weight_decay=0.1, **options, **PATHS[path])
    largest = 4 * (1 << 18)
    optimizer.step()  # creates the state
    optimizer._scratch.clear()
    with Peak() as peak:
        optimizer.step()
    assert peak.most <= 1.01 * largest  # and the norms of the rows
    if (kind, path) != (LARS, "fused") and not (path == "fused" and "adapt" in options):
        assert peak.most >= 0.9 * largest
