"""What ranks are given to do by the tests of overnight.comm: small models, steps, and what came of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import HiddenRows, Plan, Rows, SampledParallel, SampledState, join_ranks, sampled_hook
from overnight.comm.sampled import sampled_parallel
from overnight.errors import UserError
from overnight.nn.rows import SampledEmbedding
from overnight.nn.softmax import SampledSoftmax
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.optim.rows import RowAdam

V, D, H, T = 300, 8, 12, 20
WORDS = Plan({"output.*": Rows(random=0.05, frequent=0.02)})
HIDDEN = {"rnn.*": HiddenRows(0.5, blocks=4)}


@contextmanager
def ranks(timeout_seconds: float = 60.0) -> Iterator[dist.ProcessGroup]:
    """The process group, given up at the end."""
    try:
        yield join_ranks("gloo", timeout_seconds)
    finally:
        dist.destroy_process_group()


class Words(nn.Module):
    """A word model of a few hundred words: the summed loss, sampled in training."""

    def __init__(self, seed: int = 0, tied: bool = False, sparse: bool = True, width: int = D) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = SampledEmbedding(V, width, sparse=sparse)
        self.rnn = nn.LSTM(width, H)
        self.narrow = nn.Linear(H, width)
        weight = self.embedding.weight if tied else None
        self.output = SampledSoftmax(width, V, samples=20, weight=weight, sparse=sparse)

    def forward(self, ids_TB: Tensor, targets_TB: Tensor) -> Tensor:
        h_TBH, _ = self.rnn(self.embedding(ids_TB))
        return self.output(self.narrow(h_TBH).flatten(0, 1), targets_TB.flatten())


def batch(step: int, rank: int, lanes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    ids = (torch.rand(T + 1, lanes, generator=generator) ** 3 * V).long()
    return ids[:-1], ids[1:]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (p.grad.to_dense() if p.grad.is_sparse else p.grad).clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def trained(
    plan: Plan, steps: int = 3, *, accumulate: int = 1, max_norm: float | None = None, **model: Any
) -> dict[str, Any]:
    """A model of other starting values on every rank, trained by sampled_parallel; what each step left."""
    with ranks() as group:
        rank = group.rank()
        parallel = sampled_parallel(Words(seed=rank, **model), plan)
        optimizer = RowAdam(parallel.parameters(), lr=0.01)
        found: dict[str, Any] = {"weights": [], "norms": [], "clipped": [], "touched": [], "local": [], "drawn": []}
        for step in range(steps):
            for micro in range(accumulate):
                inputs = batch(10 * step + micro, rank)
                if micro < accumulate - 1:
                    with parallel.no_sync():
                        (parallel(*inputs) / T).backward()
                else:
                    (parallel(*inputs) / T).backward()
                drawn = parallel.exchange.row_set("output.weight") if micro < accumulate - 1 else None
                found["drawn"] += [] if drawn is None else [drawn.ids_R]
            if max_norm is not None:
                found["norms"].append(clip_grad_norm_(parallel.parameters(), max_norm))
                found["clipped"].append(clip_grad_norm_(parallel.parameters(), 1e9))
            found["rows"] = {n: p.grad._indices()[0] for n, p in parallel.module.named_parameters() if p.grad.is_sparse}
            found["touched"].append(dict(parallel.exchange.touched))
            optimizer.step()
            optimizer.zero_grad()
            found["weights"].append(weights(parallel.module))
        names = {id(p): name for name, p in parallel.module.named_parameters()}
        found["state"] = {names[id(p)]: dict(state) for p, state in optimizer.state.items()}
        found["step"] = parallel.exchange.step
        parallel.close()
        return found


def beside_plain_ddp(accumulate: int = 1) -> dict[str, dict[str, Tensor]]:
    """Gradients of the first step: plain DDP with dense ones, the hook at rate 1, and sampled_parallel."""
    with ranks() as group:
        found = {}
        for name in ("plain", "hook", "sampled"):
            model = Words(seed=3, sparse=name == "sampled")
            whole = Plan({"rnn.*": HiddenRows(1.0, blocks=4), "narrow.*": HiddenRows(1.0)})
            wrapped: Any = sampled_parallel(model, whole) if name == "sampled" else DistributedDataParallel(model)
            if name == "hook":
                wrapped.register_comm_hook(SampledState(wrapped, whole), sampled_hook)
            for micro in range(accumulate - 1):
                with wrapped.no_sync():
                    wrapped(*batch(micro, group.rank())).backward()
            wrapped(*batch(accumulate, group.rank())).backward()
            found[name] = gradients(model)
            if isinstance(wrapped, SampledParallel):
                wrapped.close()
            del wrapped
        return found


def with_an_empty_batch(idle: bool) -> dict[str, Tensor]:
    """Rank 1 has no tokens; or does not even use its embedding."""
    with ranks() as group:
        model = Words(seed=3)
        parallel = sampled_parallel(model, WORDS, find_unused_parameters=True)
        ids, targets = batch(0, group.rank())
        if group.rank() == 1:
            ids, targets = ids[:, :0], targets[:, :0]
        if idle and group.rank() == 1:
            model.forward = lambda ids, targets: model.narrow(torch.zeros(1, H)).sum() * 0.0  # type: ignore[method-assign]
        parallel(ids, targets).backward()
        found = gradients(model)
        parallel.close()
        return found


class Both(nn.Module):
    """An embedding with dense gradients, and one with sparse ones that need not be used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense, self.linear = nn.Embedding(50, 4), nn.Linear(4, 4)
        self.sparse = nn.Embedding(40, 4, sparse=True)

    def forward(self, ids: Tensor, use_sparse: bool) -> Tensor:
        h_ND = self.linear(self.dense(ids))
        return (h_ND + self.sparse(ids % 40) if use_sparse else h_ND).square().sum()


def touched_rows_of_both_kinds() -> dict[str, dict[str, Tensor]]:
    """The mean gradients though only rank 0 uses the sparse layer; and those of one process reading both batches."""
    with ranks() as group:
        model, alone = Both(), Both()
        parallel = sampled_parallel(model, Plan({"dense.weight": Rows(random=0.02)}), timeout_seconds=20.0)
        batches = (torch.tensor([3, 5, 9]), True), (torch.tensor([20, 21, 22, 23]), False)
        parallel(*batches[group.rank()]).backward()
        (sum(alone(*each) for each in batches) / 2).backward()
        found = {"found": gradients(model), "expected": gradients(alone)}
        parallel.close()
        return found


def closed_and_wrapped_again() -> dict[str, Any]:
    """What is left of an exchange on the model after ``close``, and whether a plain DDP then exchanges everything."""
    with ranks() as group:
        model = Words(seed=3)
        before = model.output.sampler, model.output.samples
        sampled_parallel(model, WORDS).close()
        same = (model.output.sampler, model.output.samples) == before
        other = Both()
        sampled_parallel(other).close()
        plain = DistributedDataParallel(other)
        plain(torch.tensor([3, 5]) + group.rank(), True).backward()
        del plain  # a reducer that outlives its group may hang
        return {"same": same, "gradients": gradients(other)}


def registered_after_a_mistake() -> str:
    """Of a plan that does not fit, and of one that does."""
    with ranks():
        model = Both()
        try:
            sampled_parallel(model, Plan({"sparse.weight": HiddenRows(0.5)}))
        except UserError as error:
            sampled_parallel(model).close()
            return error.problem
        raise AssertionError("nothing was said")
