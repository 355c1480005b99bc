"""Small models, losses and batches for the tests of SEBoost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overnight.optim import LAMB, LARS, SEBoost
from overnight.optim.subspace import GaussNewton, NonlinearCG

Batch = tuple[Tensor, Tensor]
BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.05),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.02, momentum=0.9),
    "NAG": lambda ps: torch.optim.SGD(ps, lr=0.02, momentum=0.9, nesterov=True),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.02),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
    "LAMB": lambda ps: LAMB(ps, lr=0.01),
    "LARS": lambda ps: LARS(ps, lr=1.0),
}
SEARCHES = {
    "CG": NonlinearCG(),
    "published CG": NonlinearCG.published(),
    "Gauss-Newton": GaussNewton(),
    "differences": GaussNewton(products="differences"),
}


class Net(nn.Module):
    """With everything that makes a loss differ from call to call: dropout, running statistics, a generator."""

    def __init__(self, dropout: float = 0.2, noise: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 3)
        )
        self.noise, self.draw = noise, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x + self.noise * torch.randn(x.shape, generator=self.draw).to(x.dtype))
        return out


def net(seed: int = 0, **settings: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**settings)


def batch(number: int, size: int = 32) -> Batch:
    draw = torch.Generator().manual_seed(number)
    x = torch.randn(size, 6, generator=draw)
    return x, (x[:, :3] * x[:, 3:]).sin()


def criterion(outputs: Tensor, given: Batch) -> Tensor:
    return nn.functional.mse_loss(outputs, given[1].to(outputs.dtype))


def loss_of(model: nn.Module) -> Callable[[Batch], Tensor]:
    return lambda given: criterion(model(given[0]), given)


def settings_of(net: nn.Module, rule: Any) -> dict[str, Any]:
    """model, loss and outputs as the rule needs them."""
    if not getattr(rule, "needs_outputs", False):
        return {"model": net, "loss": loss_of(net)}
    return {"model": net, "loss": criterion, "outputs": lambda given: net(given[0])}


def boosted(net: nn.Module, base: str = "momentum", rule: Any = None, **settings: Any) -> SEBoost:
    """A SEBoost over a model, with batches of its own."""
    given = {"batches": lambda number: batch(10_000 + number), "every": 3, "history": 4, **settings_of(net, rule)}
    given |= settings
    if given["loss"] is None:
        given["model"] = None
    return SEBoost(BASES[base](net.parameters()), rule, **given)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    loss = loss_of(model)
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(batch(step)).backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Quadratic(nn.Module):
    """½ wᵀ A w - bᵀ w, over two parameters that are parts of w; A has all its n eigenvalues apart."""

    def __init__(self, n: int = 8) -> None:
        super().__init__()
        draw = np.random.default_rng(0)
        turned = np.linalg.qr(draw.normal(size=(n, n)))[0]
        self.a = turned @ np.diag(np.linspace(1.0, 20.0, n)) @ turned.T
        self.b, self.start = draw.normal(size=n), draw.normal(size=n)
        self.root = torch.from_numpy(np.linalg.cholesky(self.a).T.copy())
        w = torch.from_numpy(self.start)
        self.first, self.second = nn.Parameter(w[:3].clone()), nn.Parameter(w[3:].clone().view(1, -1))

    def w(self) -> Tensor:
        return torch.cat([self.first, self.second.flatten()])

    def numpy(self) -> Any:
        return self.w().detach().numpy().copy()

    def gradient(self, w: Any) -> Any:
        return self.a @ w - self.b

    def outputs(self, given: Any = None) -> Tensor:
        """Such that half their squares, less a constant, are the loss."""
        return self.root @ self.w() - torch.linalg.solve(self.root.t(), torch.from_numpy(self.b))

    def loss(self, given: Any = None) -> Tensor:
        return self.outputs().square().sum() / 2
