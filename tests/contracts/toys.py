"""A LAMB and a LARS that are right, and one bug at a time that public codes have or could have."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def norm(x: Tensor, bug: str) -> Tensor:
    if bug == "plain norm":
        return torch.linalg.vector_norm(x).float()
    if bug == "norm in bfloat16" and x.dtype == torch.bfloat16:
        return x.double().norm().bfloat16().float()
    return x.double().norm().float()


def ratio(w: Tensor, u: Tensor, bug: str) -> Tensor:
    """1 where either is zero."""
    above = norm(w, bug)
    below = norm(u, bug)
    if bug == "clamps the norm":
        above = above.clamp(max=10.0)
    if bug == "no rule for zeros":
        return above / below
    if bug == "freezes zeros":
        return above / below.clamp(min=1e-30)
    return torch.where((above > 0) & (below > 0), above / below, 1.0)


class Toy(Optimizer):
    buffers: tuple[str, ...]

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)
        self.steps = 0
        if defaults["bug"] == "steps over an infinity":
            self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.one(p, p.grad, self.state[p], group, group["bug"])

    def one(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> None:
        if bug == "waits for the device" and torch.cuda.get_sync_debug_mode() == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        if bug == "raises":
            raise IndexError("a message\nof two lines")
        if bug == "reads the norm":
            norm(p, bug).item()
        dtype = torch.float32 if bug == "float32 state" else p.dtype
        if not state:
            state["step"] = 0
            for name in self.buffers:
                state[name] = torch.zeros_like(p, dtype=dtype)
        state["step"] += 1
        new = p.float()
        blocks = 1 if bug == "ignores blocks" else group["blocks"]
        direction = self.direction(p, g.float(), state, group, bug)
        for w, u in zip(new.chunk(blocks), direction.chunk(blocks), strict=True):
            self.move(w, u, p, state, group, bug)
        p.copy_(new)
        if bug == "writes to the gradient":
            g.mul_(0.5)

    def direction(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> Tensor:
        raise NotImplementedError

    def move(self, w: Tensor, u: Tensor, p: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> None:
        raise NotImplementedError


class ToyLAMB(Toy):
    buffers = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        blocks: int = 1,
        foreach: bool = False,
        capturable: bool = False,
        bug: str = "",
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, blocks=blocks, foreach=foreach,
            capturable=capturable, bug=bug,
        )  # fmt: skip

    def direction(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> Tensor:
        if group["capturable"] and bug == "refuses capturable":
            raise RuntimeError("capturable is for CUDA")
        beta1, beta2 = group["betas"]
        m = state["exp_avg"].float().lerp(g, 1 - beta1)
        v = state["exp_avg_sq"].float().lerp(g * g, 1 - beta2)
        state["exp_avg"].copy_(m)
        state["exp_avg_sq"].copy_(v)
        step = self.steps if bug == "step outside the state" else state["step"]
        c1, c2 = 1 - beta1**step, 1 - beta2**step
        if bug == "corrects the rate":
            c1 = c2 = 1.0
        decay = 0.0 if bug in ("decays outside", "foreach forgets the decay") else group["weight_decay"]
        if bug == "foreach forgets the decay" and not group["foreach"]:
            decay = group["weight_decay"]
        eps = 1000.0 if bug == "large eps" else group["eps"]
        return (m / c1) / ((v / c2).sqrt() + eps) + decay * p.float()

    def move(self, w: Tensor, u: Tensor, p: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> None:
        lr = group["lr"]
        if bug == "a step late":
            group["old"], lr = lr, group.get("old", lr)
        scale = ratio(w if group["blocks"] > 1 else p, u, bug)
        if bug == "adapts only with decay" and group["weight_decay"] == 0:
            scale = torch.ones(())
        if bug == "corrects the rate":
            beta1, beta2 = group["betas"]
            lr = lr * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        if bug == "decays outside":
            w.mul_(1 - lr * group["weight_decay"])
        w.sub_(lr * scale * u)


class ToyLARS(Toy):
    buffers = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.02,
        *,
        blocks: int = 1,
        momentum_placement: str = "inside",
        fused: bool = False,
        bug: str = "",
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient,
            blocks=blocks, momentum_placement=momentum_placement, fused=fused, bug=bug,
        )  # fmt: skip

    def direction(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> Tensor:
        return g

    def move(self, w: Tensor, u: Tensor, p: Tensor, state: dict[str, Any], group: dict[str, Any], bug: str) -> None:
        lr, decay, n = group["lr"], group["weight_decay"], len(w) * w[0].numel()
        g = u
        weight_norm = norm(w if group["blocks"] > 1 else p, bug)
        below = norm(g, bug) + decay * weight_norm
        if bug == "no decay in the denominator":
            below = norm(g, bug)
        if bug == "norm of the decayed gradient":
            below = norm(g + decay * w, bug)
        if bug == "large eps":
            below = below + 1000.0
        above = weight_norm.clamp(max=10.0) if bug == "clamps the norm" else weight_norm
        scale = group["trust_coefficient"] * above / below
        if bug != "no rule for zeros":
            floor = 0.0 if bug == "freezes zeros" else 1.0
            scale = torch.where((above > 0) & (below > 0), scale, floor)
        if bug == "adapts only with decay" and decay == 0:
            scale = torch.ones(())
        if bug == "the fused one has no decay" and group["fused"]:
            decay = 0.0
        d = scale * (g + decay * w)
        first = state["step"] == 1
        placement = "torch" if bug == "rate outside" else group["momentum_placement"]
        if placement == "inside":
            d = lr * d
        rows = w.storage_offset() // max(1, n // len(w)) if group["blocks"] > 1 else 0
        buffer = state["momentum_buffer"][rows : rows + len(w)]
        v = group["momentum"] * buffer.float() + d
        if bug == "starts with the raw gradient" and first:
            v = g.clone()
        buffer.copy_(v)
        w.sub_(v if placement == "inside" else lr * v)
