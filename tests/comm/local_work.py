"""What ranks are given to do by test_local_steps: steps of their own, exchanges, and what came of them."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from comm.work import Words, batch, ranks, weights
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import LocalSteps, Meter, join_ranks, sampled_parallel
from overnight.comm.inner_state import even_out
from overnight.errors import UserError
from overnight.optim.rows import RowAdam

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sparse": ({}, {}),
    "dense": ({"sparse": False}, {}),
    "bf16": ({}, {"dtype": "bf16"}),
    "tied": ({"tied": True}, {"nesterov": False}),
    "no momentum": ({}, {"momentum": 0.0}),
}


class Odd(nn.Module):
    """A linear layer, beside everything that a model may have besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(1), persistent=False)


def as_ddp() -> dict[str, dict[str, Tensor]]:
    """Four steps of SGD in double precision by DDP, and by local steps with H = 1, η = 1, μ = 0."""
    with ranks() as group:
        found = {}
        for name in ("ddp", "local"):
            model = Words(seed=3, sparse=False).double()
            local = LocalSteps(model, every=1, outer_lr=1.0, momentum=0.0) if name == "local" else None
            called = DistributedDataParallel(model) if local is None else model
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(4):
                (called(*batch(step, group.rank())) / 20).backward()
                optimizer.step()
                optimizer.zero_grad()
                if local is not None:
                    local.step()
            found[name] = weights(model)
            del called
        return found


def beside_torch(momentum: float, nesterov: bool) -> list[tuple[Tensor, Tensor]]:
    """Weights after each exchange, and those of torch's SGD given the ranks' mean displacement as its gradient."""
    with ranks() as group:
        torch.manual_seed(0)
        model = nn.Linear(3, 2, bias=False).double()
        local = LocalSteps(model, every=3, outer_lr=0.7, momentum=momentum, nesterov=nesterov)
        expected = copy.deepcopy(model)
        outer = torch.optim.SGD(expected.parameters(), lr=0.7, momentum=momentum, nesterov=nesterov)
        found = []
        for step in range(12):
            generator = torch.Generator().manual_seed(10 * step + group.rank())
            with torch.no_grad():
                model.weight += torch.randn(2, 3, generator=generator, dtype=torch.float64)
            mean = model.weight.detach() / 2
            dist.all_reduce(mean)
            if local.step():
                expected.weight.grad = expected.weight.detach() - mean
                outer.step()
                found.append((model.weight.detach().clone(), expected.weight.detach().clone()))
        return found


def trained(kind: str) -> dict[str, Any]:
    """Models of other starting values on every rank, five steps, exchanges after two, four and at the end."""
    of_model, of_steps = KINDS[kind]
    with ranks() as group:
        meter, rank = Meter(), group.rank()
        model = Words(seed=rank, **of_model)
        local = LocalSteps(model, every=2, meter=meter, **of_steps)
        optimizer = (
            RowAdam(model.parameters(), lr=0.01)
            if of_model.get("sparse", True)
            else torch.optim.Adam(model.parameters(), lr=0.01)
        )
        found: dict[str, Any] = {"weights": [weights(model)], "exchanged": [], "traffic": []}
        for step in range(5):
            (model(*batch(step, rank)) / 20).backward()
            optimizer.step()
            optimizer.zero_grad()
            found["exchanged"].append(local.step())
            found["weights"].append(weights(model))
            found["traffic"].append(meter.read())
        local.exchange_now()
        found["weights"].append(weights(model))
        local.exchange_now()
        found["again"] = weights(model)
        found["elements"] = {name: p.numel() for name, p in model.named_parameters()}
        return found


def rows_or_whole() -> dict[str, Any]:
    """Two tables of which each rank moves some rows: one is exchanged by rows, one whole."""
    with ranks() as group:
        found = {}
        for name in ("rows", "whole"):
            torch.manual_seed(0)
            table, meter = nn.Embedding(50, 4, sparse=name == "rows"), Meter()
            local = LocalSteps(table, every=1, meter=meter)
            for step in range(3):
                ids = torch.tensor([[3, 7], [7, 40]])[group.rank()] + step
                with torch.no_grad():
                    table.weight[ids] += 0.1 * (step + 1)
                local.step()
            found[name] = (table.weight.detach().clone(), meter.read())
        return found


def small_ways(dtype: Any) -> Tensor:
    """θ after 64 exchanges of displacements by 1.001, which is 1 in bfloat16."""
    with ranks():
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        local = LocalSteps(model, every=1, outer_lr=1.0, momentum=0.0, dtype=dtype)
        for _ in range(64):
            with torch.no_grad():
                model.weight += 1.001
            local.step()
        return local.outer["weight"]


def of_16_bits(dtype: torch.dtype) -> tuple[Tensor, Tensor, torch.dtype]:
    """A weight of 1 that moves by one unit in the last place before each of 8 outer steps of rate 1/4."""
    with ranks():
        model = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.ones_(model.weight)
        local = LocalSteps(model, every=1, outer_lr=0.25, momentum=0.0)
        for _ in range(8):
            with torch.no_grad():
                model.weight += torch.finfo(dtype).eps * model.weight.floor()
            local.step()
        local.load_state_dict(local.state_dict())
        return local.outer["weight"], model.weight.detach().float(), model.weight.dtype


def odd() -> dict[str, Tensor]:
    """Buffers and parameters after one exchange."""
    with ranks() as group:
        torch.manual_seed(group.rank())
        model, rank = Odd(), group.rank()
        local = LocalSteps(model, every=1)
        with torch.no_grad():
            model.frozen += rank
            model.mean = torch.full((3,), 1.0 + 2 * rank)
            model.seen += 5 + rank
            model.cache = torch.full((4 + rank,), float(rank))
        local.step()
        return dict(model.named_buffers()) | {"frozen": model.frozen.detach(), "weight": model.linear.weight.detach()}


def not_finite() -> tuple[str, bool, bool]:
    """What is said if rank 1's weights are NaN; whether θ and the residual are as they were."""
    with ranks() as group:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        local = LocalSteps(model, every=2, dtype="bf16")
        before = {name: outer.clone() for name, outer in local.outer.items()}
        with torch.no_grad():
            model.weight += float("nan") if group.rank() == 1 else 0.3
        local.step()
        try:
            local.exchange_now()
        except UserError as error:
            same = all(torch.equal(local.outer[name], value) for name, value in before.items())
            return str(error), same, local.state_dict("drop")["residual"] == {} and local.since_exchange == 1
        raise AssertionError("nothing was said")


def _advance(model: nn.Linear, local: LocalSteps, steps: range, rank: int) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(10 * step + rank)
        with torch.no_grad():
            model.weight += 0.1 * torch.randn(2, 3, generator=generator)
        local.step()


def resumed(mode: Any) -> dict[str, Any]:
    """A run with a checkpoint after five of eleven steps, one resumed from it, and what the checkpoint held."""
    with ranks() as group:
        torch.manual_seed(0)
        model = nn.Linear(3, 2, bias=False)
        local = LocalSteps(model, every=3, dtype="bf16")
        _advance(model, local, range(5), group.rank())
        common = local.outer["weight"].clone()
        saved = copy.deepcopy(local.state_dict(mode))
        held = copy.deepcopy(model.state_dict())
        local.close()
        if mode != "drop":
            _advance(model, local, range(5, 11), group.rank())
        other = nn.Linear(3, 2, bias=False)
        again = LocalSteps(other, every=3, dtype="bf16")
        other.load_state_dict(held)
        again.load_state_dict(saved)
        start = weights(other)["weight"]
        if mode != "drop":
            _advance(other, again, range(5, 11), group.rank())
        return {"saved": saved, "went on": weights(model), "resumed": weights(other), "start": start, "common": common}


def alone(saved: dict[str, Any], weight: Tensor) -> tuple[Tensor, Any]:
    """One rank resumes what two have saved."""
    with ranks():
        model = nn.Linear(3, 2, bias=False)
        local = LocalSteps(model, every=3, dtype="bf16")
        with torch.no_grad():
            model.weight.copy_(weight)
        try:
            local.load_state_dict(saved)
        except UserError as error:
            return weight, str(error)
        _advance(model, local, range(3), 0)
        return model.weight.detach(), local.since_exchange


def _twice(rank: int) -> None:
    model = nn.Linear(4, 3)
    sampled_parallel(model)
    LocalSteps(model, every=2)


def _of_another_model(rank: int) -> None:
    saved = LocalSteps(nn.Linear(4, 3), every=2).state_dict("drop")
    LocalSteps(nn.Linear(4, 5), every=2).load_state_dict(saved)


def _buffers(rank: int) -> None:
    model = nn.Linear(4, 3)
    model.register_buffer("seen", torch.zeros(1 + rank))
    LocalSteps(model, every=2)


MISTAKES: dict[str, tuple[Callable[[int], Any], str]] = {
    "no steps": (lambda rank: LocalSteps(nn.Linear(4, 3), every=0), "every=0 is no number of local steps"),
    "half a step": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2.5), "every=2.5 is no number"),
    "no rate": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2, outer_lr=0.0), "outer_lr=0.0 is no rate"),
    "momentum": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2, momentum=1.0), "momentum=1.0 is no momentum"),
    "dtype": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2, dtype="fp8"), "dtype='fp8' is not known"),
    "models": (lambda rank: LocalSteps(nn.Linear(4, 3 + rank), every=2), "The model of rank 1 is not that of rank 0"),
    "buffers": (_buffers, "The model's buffers of rank 1 is not that of rank 0"),
    "every": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2 + rank), "The outer step of rank 1 is not"),
    "data": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2, data=str(rank)), "The data of rank 1 is not"),
    "twice": (_twice, "registered twice"),
    "wrapped": (lambda rank: LocalSteps(DistributedDataParallel(nn.Linear(4, 3)), every=2), "wrapped in Distributed"),
    "residual": (lambda rank: LocalSteps(nn.Linear(4, 3), every=2).state_dict("keep"), "residual='keep' is not known"),
    "another model": (_of_another_model, "The saved outer weights of weight are not of this model"),
}


def mistakes() -> dict[str, BaseException | None]:
    """What each mistake raises."""
    with ranks() as group:
        found: dict[str, BaseException | None] = {}
        for name, (work, _) in MISTAKES.items():
            try:
                work(group.rank())
                found[name] = None
            except Exception as error:  # what it is, is the test
                found[name] = UserError(str(error)) if isinstance(error, UserError) else RuntimeError(repr(error))
        return found


def a_rank_that_stalls() -> tuple[float, str, bool]:
    """Rank 1 does not come to the second exchange: after how long rank 0 gives up, what it says, and whether θ is
    still that of the first.
    """
    join_ranks("gloo", 60)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    local = LocalSteps(model, every=2, timeout_seconds=2.0)
    rank = dist.get_rank()
    for _ in range(2):
        local.step()
    before = {name: outer.clone() for name, outer in local.outer.items()}
    if rank == 1:
        time.sleep(5)
        return 0.0, "", True
    local.step()
    begun = time.monotonic()
    try:
        local.step()
    except UserError as error:
        same = all(torch.equal(local.outer[name], value) for name, value in before.items())
        return time.monotonic() - begun, str(error), same
    raise AssertionError("nothing was said")


def moments_of_rows() -> tuple[Tensor, Tensor]:
    """Means over the ranks of a row-wise Adam's first moments as of the last step: before, and by ``even_out``."""
    with ranks() as group:
        p = nn.Parameter(torch.ones(3, 1))
        optimizer = RowAdam([p], lr=0.0)
        for step in range(21):
            rows = [0, 1] if step == 0 or (step == 20 and group.rank() == 1) else [1]
            p.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(len(rows), 1), p.shape).coalesce()
            optimizer.step()

        def as_of_now() -> Tensor:
            state = optimizer.state[p]
            return state["exp_avg"][:, 0] * 0.9 ** (int(state["step"]) - state["row_step"])

        expected = as_of_now() / group.size()
        dist.all_reduce(expected)
        even_out(optimizer, group)
        return expected, as_of_now()
