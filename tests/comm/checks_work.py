"""What ranks are given to do by test_checks and test_meter: mistakes, and exchanges that are counted."""

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from comm.work import HIDDEN, WORDS, Words, batch, ranks
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import HiddenRows, LocalSteps, Meter, Plan, SampledState, join_ranks, sampled_hook, sampled_parallel
from overnight.comm.checks import lost
from overnight.comm.strategies import ddp
from overnight.errors import UserError


def _models(rank: int) -> None:
    sampled_parallel(nn.Linear(4, 3 + rank), Plan())


def _names(rank: int) -> None:
    sampled_parallel(nn.ModuleDict({"ab"[rank]: nn.Linear(4, 3)}), Plan())


def _plans(rank: int) -> None:
    sampled_parallel(nn.Linear(4, 3), Plan(seed=rank))


def _data(rank: int) -> None:
    sampled_parallel(nn.Linear(4, 3), data=f"corpus {rank}")


def _ways(rank: int) -> None:
    model = nn.Linear(4, 3)
    if rank:
        LocalSteps(model, every=2)
    else:
        sampled_parallel(model)


def _sparse(rank: int) -> None:
    SampledState(nn.Sequential(nn.Embedding(9, 4, sparse=True)), Plan())


class Functional(nn.Module):
    """An embedding that no module shows to have sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(9, 4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.weight, sparse=True).sum()


def _functional(rank: int) -> None:
    parallel = sampled_parallel(Functional())
    parallel(torch.tensor([1, 2])).backward()


def _functional_ddp(rank: int) -> None:
    strategy = ddp(Functional())
    strategy.module(torch.tensor([1, 2])).backward()


def _hidden_sparse(rank: int) -> None:
    sampled_parallel(Words(), Plan({"embedding.*": HiddenRows(0.5)}))


def _twice(rank: int) -> None:
    model = nn.Linear(4, 3)
    sampled_parallel(model)
    sampled_parallel(model)


def _second_state(rank: int) -> None:
    wrapped = DistributedDataParallel(nn.Linear(4, 3))
    SampledState(wrapped, Plan())
    SampledState(wrapped, Plan())


def _second_hook(rank: int) -> None:
    wrapped = DistributedDataParallel(nn.Linear(4, 3))
    wrapped.register_comm_hook(None, allreduce_hook)
    SampledState(wrapped, Plan())


def _wrapped(rank: int) -> None:
    sampled_parallel(DistributedDataParallel(nn.Linear(4, 3)))


def _replaced(rank: int) -> None:
    model = Words()
    model.output.unique = False
    sampled_parallel(model, WORDS)


def _announced(rank: int) -> None:
    sampled_parallel(Words(sparse=False), WORDS).exchange.announce("rnn.bias_hh_l0", torch.zeros(1))


def _other_plan(rank: int) -> None:
    first = sampled_parallel(nn.Linear(4, 3), Plan())
    saved = first.exchange.state_dict()
    first.close()
    sampled_parallel(first.module, Plan(seed=1)).exchange.load_state_dict(saved)


MISTAKES: dict[str, tuple[Callable[[int], None], str]] = {
    "models": (_models, "The model of rank 1 is not that of rank 0."),
    "names": (_names, "The model of rank 1 is not that of rank 0."),
    "plans": (_plans, "The plan of rank 1 is not that of rank 0."),
    "data": (_data, "The data of rank 1 is not that of rank 0."),
    "ways": (_ways, "The way to train together of rank 1 is not that of rank 0."),
    "sparse": (_sparse, "The gradients of 0.weight are sparse"),
    "functional": (_functional, "A gradient of shape [9, 4] is sparse"),
    "functional, DDP": (_functional_ddp, "A gradient of shape [9, 4] is sparse"),
    "hidden sparse": (_hidden_sparse, "The gradient of embedding.weight is sparse"),
    "twice": (_twice, "registered twice"),
    "second state": (_second_state, "registered twice"),
    "second hook": (_second_hook, "has a communication hook already"),
    "wrapped": (_wrapped, "wrapped in DistributedDataParallel already"),
    "with replacement": (_replaced, "The output layer output draws with replacement"),
    "announced": (_announced, "'rnn.bias_hh_l0' is no parameter"),
    "other plan": (_other_plan, "The saved state is of another plan."),
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


def meet(environment: dict[str, str], backend: str, seconds: float) -> None:
    """Join, in another environment."""
    for name, value in environment.items():
        os.environ[name] = value
        if not value:
            del os.environ[name]
    join_ranks(backend, seconds)


def a_rank_that_stalls() -> float:
    """Rank 1 does not come to the second step; the seconds until rank 0 gives up, which raises there."""
    join_ranks("gloo", 60)
    parallel = sampled_parallel(Words(seed=3), WORDS, timeout_seconds=2.0)
    rank = dist.get_rank()
    parallel(*batch(0, rank)).backward()
    if rank == 1:
        time.sleep(5)
        return 0.0
    begun = time.monotonic()
    try:
        parallel(*batch(1, rank)).backward()
    except UserError as error:
        raise UserError(f"{time.monotonic() - begun:.0f} {error.problem}", error.remedy) from None
    return -1.0


def a_rank_that_stalls_in_ddp() -> tuple[float, bool]:
    """Rank 1 does not come to the second step: after how long rank 0 gives up, and whether the connection was lost."""
    join_ranks("gloo", 60)
    strategy = ddp(nn.Linear(3, 3), timeout_seconds=2.0)
    strategy.module(torch.ones(1, 3)).sum().backward()
    if dist.get_rank() == 1:
        time.sleep(5)
        return 0.0, True
    begun = time.monotonic()
    try:
        strategy.module(torch.ones(1, 3)).sum().backward()
    except RuntimeError as error:
        return time.monotonic() - begun, lost(error)
    raise AssertionError("nothing was said")


STARTS: dict[str, Callable[[nn.Module], Any]] = {
    "sampled": lambda model: sampled_parallel(model, timeout_seconds=1.0),
    "local": lambda model: LocalSteps(model, every=2, timeout_seconds=1.0),
    "ddp": lambda model: ddp(model, timeout_seconds=1.0),
}


def a_rank_that_does_not_start(way: str) -> str:
    """Rank 1 never registers; what rank 0 says."""
    join_ranks("gloo", 60)
    if dist.get_rank() == 1:
        time.sleep(3)
        return ""
    try:
        STARTS[way](nn.Linear(3, 3))
    except UserError as error:
        return str(error)
    raise AssertionError("nothing was said")


def counted(dtype: Any) -> dict[str, Any]:
    """Bytes of steps by the meter, and by the formula."""
    with ranks() as group:
        meter = Meter()
        plan = Plan({**WORDS.rules, **HIDDEN}, dtype=dtype)
        # as many numbers in a row as to make the ids few beside them
        model = Words(seed=3, width=64)
        parallel = sampled_parallel(model, plan, meter=meter)
        start = meter.read()
        found = []
        for step in range(3):
            parallel(*batch(step, group.rank())).backward()
            elements = plan.elements(parallel.exchange.named.items(), parallel.exchange.touched)
            found.append((meter.read(), elements))
            parallel.zero_grad()
        parallel.close()
        return {"start": start, "steps": found}


def hooks() -> dict[str, Any]:
    """Traffic of two steps with torch's own hook, and with ours, of the same model."""
    with ranks() as group:
        found = {}
        for name in ("torch", "ours"):
            wrapped, meter = DistributedDataParallel(Words(seed=3, sparse=False)), Meter()
            state: Any = None if name == "torch" else SampledState(wrapped, Plan(HIDDEN))
            wrapped.register_comm_hook(state, meter.wrap(allreduce_hook if name == "torch" else sampled_hook))
            for step in range(2):
                wrapped(*batch(step, group.rank())).backward()
            found[name] = meter.read()
        found["elements"] = sum(p.numel() for p in wrapped.parameters())
        found["less"] = sum(p.numel() - p.numel() // 2 for n, p in wrapped.module.named_parameters() if "rnn" in n)
        return found


def power_sgd() -> dict[str, Any]:
    """Traffic of a step of torch's PowerSGD, whose second and third collectives are issued by callbacks."""
    with ranks() as group:
        then = vars(torch._C.Future)["then"]
        model, meter = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 2)), Meter()
        wrapped = DistributedDataParallel(model)
        state = PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        wrapped.register_comm_hook(state, meter.wrap(powerSGD_hook))
        found = []
        for step in range(5):
            torch.manual_seed(10 * step + group.rank())
            wrapped(torch.randn(8, 40)).square().mean().backward()
            found.append(meter.read())
        # with the group in it, DDP's destructor would wait for a callback that has not quite ended, which waits for it
        del wrapped
        gc.collect()
        return {
            "steps": found,
            "shapes": [tuple(p.shape) for p in model.parameters()],
            "restored": vars(torch._C.Future)["then"] is then,
        }
