"""What ranks are given to do by test_ranks: training with boosts under DDP and FSDP2."""

import copy
from typing import Any

import torch
import torch.distributed as dist
from distributed.sharded_work import mesh_of
from optim.subspace.cases import BASES, SEARCHES, batch, boosted, criterion, loss_of, settings_of
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import Plan, Rows, sampled_parallel
from overnight.optim import SEBoost
from overnight.optim.subspace import Anderson, Fixed

RULES = {"CG": SEARCHES["CG"], "Gauss-Newton": SEARCHES["Gauss-Newton"], "Lookahead": Fixed(), "Anderson": Anderson()}
STEPS = 9


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def part(number: int) -> Any:
    """This rank's rows of a batch of 32; all of them where there is one process."""
    x, y = (value.double() for value in batch(number))
    if not dist.is_initialized():
        return x, y
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return x.chunk(ranks)[rank], y.chunk(ranks)[rank]


def optimizer_of(model: nn.Module, rule: str, base: str = "momentum", **settings: Any) -> SEBoost:
    searches = RULES[rule].searches
    given: dict[str, Any] = {"batches": lambda number: part(10_000 + number), "orthonormal": True, "anchors": (2,)}
    given = {**settings_of(model, RULES[rule]), **given} if searches else {}
    return SEBoost(BASES[base](model.parameters()), RULES[rule], every=3, history=3, **given | settings)


def train(model: nn.Module, optimizer: SEBoost, steps: range) -> list[tuple[float, ...]]:
    loss, found = loss_of(model), []
    for step in steps:
        optimizer.zero_grad()
        loss(part(step)).backward()
        optimizer.step()
        if optimizer.last is not None and optimizer.last.step == step + 1:
            found.append((optimizer.last.loss_before or 0.0, *optimizer.last.coefficients))
    return found


def whole(model: nn.Module) -> list[Tensor]:
    """All parameters, gathered."""
    found: list[Any] = list(model.parameters())
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in found]


def alone(rule: str) -> tuple[list[Tensor], list[tuple[float, ...]]]:
    model = network()
    found = train(model, optimizer_of(model, rule), range(STEPS))
    return whole(model), found


def parallel() -> dict[str, Any]:
    """Of each rule: weights and coefficients under DDP and FSDP2, and how often the hook ran."""
    found: dict[str, Any] = {}
    for rule in RULES:
        model = DistributedDataParallel(network())
        calls: list[int] = []

        def hook(state: Any, bucket: dist.GradBucket, calls: list[int] = calls) -> torch.futures.Future[Tensor]:
            calls.append(bucket.index())
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, hook)
        done = train(model, optimizer_of(model, rule), range(STEPS))
        found[f"DDP {rule}"] = whole(model), done, len(calls)
        sharded = network()
        fully_shard(sharded, mesh=mesh_of((dist.get_world_size(),)))
        done = train(sharded, optimizer_of(sharded, rule), range(STEPS))
        found[f"FSDP2 {rule}"] = whole(sharded), done, STEPS
    return found


def resumed() -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Through torch.distributed.checkpoint.state_dict, sharded and whole: unbroken and resumed weights."""
    found = {}
    for kind, full in (("sharded", False), ("whole", True)):
        for base in ("SGD", "Adam", "LAMB"):
            ends = []
            options = StateDictOptions(full_state_dict=full)
            kept: Any = None
            for start in (0, 4):
                model = network()
                fully_shard(model, mesh=mesh_of((dist.get_world_size(),)))
                optimizer = optimizer_of(model, "CG", base, momentum_column=0.5)
                if kept is not None:
                    set_model_state_dict(model, kept[0], options=options)
                    set_optimizer_state_dict(model, optimizer, kept[1], options=options)
                train(model, optimizer, range(start, 4))
                if kept is None:
                    state = get_model_state_dict(model, options=options)
                    packed = get_optimizer_state_dict(model, optimizer, options=options)
                    kept = copy.deepcopy((state, packed))
                train(model, optimizer, range(4, STEPS + 3))
                ends.append(whole(model))
            found[f"{kind} {base}"] = (ends[0], ends[1])
    return found


def sampled() -> dict[str, Any]:
    """Training that exchanges half of the rows only: weights, coefficients, and the gradient of a boost batch."""
    torch.manual_seed(3)
    model = sampled_parallel(network(), Plan({"0.weight": Rows(random=0.5), "2.weight": Rows(random=0.4)}))
    optimizer = optimizer_of(model, "CG")
    coefficients = train(model, optimizer, range(STEPS))
    exchanged = model.exchange.step
    closure = optimizer.boost_closure(part(77))
    loss, gradients = closure.gradient(list(model.parameters()))
    numbers = torch.cat([loss.view(1), *(g.flatten() for g in gradients if g is not None)])
    found = {"weights": whole(model), "coefficients": coefficients, "gradient": closure.mean(numbers)}
    x, y = (value.double() for value in batch(77))
    plain = network()
    plain.load_state_dict(model.module.state_dict())
    exact = criterion(plain(x), (x, y))
    exact.backward()
    expected = torch.cat(
        [exact.detach().view(1), *(p.grad.flatten() for p in plain.parameters() if p.grad is not None)]
    )
    found |= {"expected": expected, "steps": (exchanged, model.exchange.step)}
    train(model, optimizer, range(STEPS, STEPS + 1))
    found["next"] = (model.exchange.step, whole(model))
    model.close()
    return found


def bare() -> str:
    """A model that nothing wraps, on several ranks."""
    from overnight.errors import UserError

    try:
        optimizer_of(network(), "CG")
    except UserError as error:
        return str(error)
    return ""


def masks() -> tuple[float, float, float]:
    """Mean loss of a closure with dropout, of this rank's own mask, and the same with running statistics broadcast."""
    from optim.subspace.cases import net

    model = DistributedDataParallel(net())
    optimizer = boosted(model, "momentum")
    closure = optimizer.boost_closure(part_float(0))
    before = model.require_forward_param_sync
    mean = closure()
    assert model.require_forward_param_sync == before
    own, _ = closure.gradient(list(model.parameters()))
    return mean, closure(), float(own)


def part_float(number: int) -> Any:
    x, y = part(number)
    return x.float(), y.float()


def refused() -> str:
    """A sharded optimizer given whole tensors."""
    from overnight.errors import UserError

    model = network()
    plain = optimizer_of(model, "Lookahead")
    train_alone(model, plain)
    fully_shard(model, mesh=mesh_of((dist.get_world_size(),)))
    optimizer = optimizer_of(model, "Lookahead")
    try:
        optimizer.load_state_dict(plain.state_dict())
    except UserError as error:
        return str(error)
    return ""


def train_alone(model: nn.Module, optimizer: SEBoost) -> None:
    x, y = part(0)
    criterion(model(x), (x, y)).backward()
    optimizer.step()
