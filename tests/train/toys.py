"""A run without text: uneven counts, lanes with a state, and steps that are not finite on purpose."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overnight.schedule.curves import linear
from overnight.tasks.loss import Loss
from overnight.train.run import Run


@dataclass(frozen=True)
class ToyBatch:
    """x [B, 3]; weight [B, 4] is 1 for the targets that count; bad says what goes wrong in this step."""

    x: Tensor
    weight: Tensor
    bad: str = ""

    def to(self, device: torch.device) -> "ToyBatch":
        return ToyBatch(self.x.to(device), self.weight.to(device), self.bad)


class ToyData:
    """Batches of random numbers; lane i counts 1 + i mod 4 targets.

    Args:
        lanes, seed: as the trainer gives them.
        bad: step → ``loss`` (not a number in lane 1 only), ``gradient`` (of a finite loss), ``huge`` (lane 1), or
            ``empty`` (no targets in the second half of the lanes).
    """

    steps_per_epoch = 10

    def __init__(self, *, lanes: int, seed: int, bad: Any = ()) -> None:
        self.lanes, self.seed, self.bad = lanes, seed, dict(bad)

    def at(self, step: int, first: int, count: int) -> ToyBatch:
        draw = torch.Generator().manual_seed(1000 * self.seed + step)
        x = torch.randn(self.lanes, 3, generator=draw, dtype=torch.float64)
        weight = (torch.arange(4) <= torch.arange(self.lanes).unsqueeze(1) % 4).double()
        bad = self.bad.get(step, "")
        if bad == "loss":
            x[1] = float("nan")
        elif bad == "huge":
            x[1] *= 1e5
        elif bad == "empty":
            weight[self.lanes // 2 :] = 0
        return ToyBatch(x[first : first + count], weight[first : first + count], bad)


class ToyModel(nn.Module):
    """Three numbers and a state of three → four, in float64 so that sums in another order still agree."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.cat([x, h], 1))
        return out


class HalfModel(ToyModel):
    """The same in float32, so that autocast makes it half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return super().forward(x.float(), h.float()).double()


class ToyTask(nn.Module):
    """Squared error to nothing, summed over the targets that count; the state is a running mean of x."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(lanes, 3, dtype=torch.float64)}

    def count(self, batch: ToyBatch) -> int:
        return int(batch.weight.sum())

    def forward(self, batch: ToyBatch, carry: Mapping[str, Tensor]) -> Loss:
        out = self.model(batch.x, carry["h"])
        total = ((out - 1.0).square() * batch.weight).sum()
        if batch.bad == "gradient":
            total = total + (self.model.mix.weight.sum() * 0).sqrt()
        return Loss(total, self.count(batch), {"h": (0.5 * carry["h"] + 0.5 * batch.x).detach()})


class ForgetfulSGD(torch.optim.SGD):
    """Keeps something that no JSON can hold."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["memory"] = {1, 2}
        return super().step(closure)


class NoBoost(torch.optim.SGD):
    """Takes what a boost is given, and does not boost."""

    def __init__(self, base: torch.optim.Optimizer, **_: Any) -> None:
        super().__init__(base.param_groups, lr=0.1)


def toy(**changes: Any) -> Run:
    """Eight lanes, SGD with momentum, a linear schedule."""
    run = Run(
        recipe="toy",
        model=partial(ToyModel),
        task=partial(ToyTask),
        data=partial(ToyData),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        schedule=partial(linear),
        global_batch_size=8,
        steps=8,
        precision="fp32",
        max_norm=None,
        log_every=1,
        evaluations=0,
        threads=1,
    )
    for name, value in changes.items():
        run = run.with_setting(f"{name.replace('__', '.')}={value}")
    return run
