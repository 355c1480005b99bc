"""A parameter server: its own copy of the weights, an ordinary optimizer, and workers that come and go.

Shape suffixes: R rows.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overnight.comm.asynchronous.gradients import narrow
from overnight.comm.asynchronous.link import open_store
from overnight.comm.asynchronous.message import Message
from overnight.comm.asynchronous.sessions import Session, Sessions, identity
from overnight.comm.asynchronous.staleness import Staleness
from overnight.comm.asynchronous.update import Update
from overnight.comm.asynchronous.versions import Versions, by_rows, parameters_of
from overnight.comm.plan import Plan
from overnight.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Push:
    """What one worker's push was.

    Attributes:
        rank: the worker's.
        staleness: τ.
        loss, count: summed loss, and targets, as the worker says.
        norm: global L2 norm of its gradients, before clipping.
        finite: whether loss and gradient were; otherwise it changed nothing.
        seconds: how long the worker computed, and how long it waited for the server, since its last push.
    """

    rank: int
    staleness: int
    loss: float
    count: int
    norm: float
    finite: bool
    seconds: tuple[float, float] = (0.0, 0.0)


def push_of(rank: int, staleness: int, data: Mapping[str, Any]) -> Push:
    """What a worker says of its push."""
    computing, waiting = data["seconds"]
    return Push(rank, staleness, data["loss"], data["count"], math.nan, data["finite"], (computing, waiting))


@dataclass
class Counts:
    """What a server has seen: pushes taken by rank, those that were not finite, sessions opened and lost, bytes."""

    pushes: Counter[int] = field(default_factory=Counter)
    not_finite: int = 0
    opened: int = 0
    lost: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class ParameterServer:
    """Holds the weights, gives them to workers, and updates them with each worker's gradients as they come.

        w_{v+1} = w_v - η · optimizer(g(w_{v-τ}))

    Dense gradients go to the optimizer as they are, rows of gradients as sparse tensors where the optimizer changes no
    other rows by them (``overnight.optim.rows``, SGD without momentum, Adagrad), else filled up with zeros. Each worker
    has a line of its own, and a thread here; one that dies, stalls or returns concerns no other.

    Args:
        model: the server's own copy, on the CPU or a GPU; workers get its values.
        optimizer: of its parameters.
        host, port: where workers come, by an address that they reach; host None listens nowhere, port 0 is a free one.
        workers: how many are expected; those of as many pushes in a row draw the same rows.
        plan: of which parameters rows are exchanged; ``dtype="bf16"`` rounds what goes either way to bfloat16.
        max_staleness: pushes with more updates between pull and push are refused; None refuses none.
        lr_by_staleness: divide the rate of an update by 1 + τ.
        pushes_per_update: so many are averaged, weighted by their counts, for one update (Aji and Heafield sum them:
            the same for optimizers that divide by the gradient's size, else a matter of the rate).
        max_norm: the gradient of an update is clipped to this global L2 norm, but for parameter groups with
            ``clip=False``.
        data: identity of the data, compared with every worker's.
        also: further identities that must be the same, by name.
        before_update, after_update: called around each update with the pushes of which it is, while nothing else
            changes the weights; the first may set rates. A push that is not finite is told to the second alone.
        on_join: rank → plain data and tensors for a worker that comes.
        timeout_seconds: a worker that says nothing for so long has lost its session.

    Attributes:
        version: updates made.
        port: where it listens.
        staleness, counts: of what came.
        told: plain data that every answer to a push carries, such as where the last checkpoint is.

    Raises:
        UserError: for settings outside their range, a plan that does not fit the model, or a port that is taken.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> server = ParameterServer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> server.version, server.staleness.histogram()
    (0, {})

    Sources: Dean et al. 2012 (DistBelief); Aji and Heafield 2019 (1906.03496) for pushes summed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        host: str | None = None,
        port: int = 0,
        workers: int = 1,
        plan: Plan | None = None,
        max_staleness: int | None = None,
        lr_by_staleness: bool = False,
        pushes_per_update: int = 1,
        max_norm: float | None = None,
        data: str = "",
        also: Mapping[str, str] | None = None,
        before_update: Callable[[Sequence[Push]], None] | None = None,
        after_update: Callable[[Sequence[Push]], None] | None = None,
        on_join: Callable[[int], tuple[dict[str, Any], dict[str, Tensor]]] | None = None,
        timeout_seconds: float = 300.0,
    ) -> None:
        for name, value in (("workers", workers), ("pushes_per_update", pushes_per_update)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} cannot be.", f"{name} must be a whole number of at least 1.")
        self.model, self.plan, self.workers = model, plan or Plan(), workers
        self.parameters = parameters_of(model)
        self.plan.check(self.parameters.items())
        self.names = list(self.parameters)
        rows = by_rows(model, self.plan)
        self.rows = set(rows)
        self.identity = identity(model, self.plan, data, also)
        self.staleness = Staleness(max_staleness, lr_by_staleness)
        self.update = Update(self.parameters, optimizer, max_norm)
        self.pushes_per_update, self.timeout_seconds = pushes_per_update, timeout_seconds
        self.before_update, self.after_update, self.on_join = before_update, after_update, on_join
        self.lock = threading.RLock()
        self.version, self.counts, self.told = 0, Counts(), dict[str, Any]()
        self.versions = Versions(self.parameters, rows, 0)
        self.limit: int | None = None
        self.ended: str | None = None
        self.failure: tuple[str, str] | None = None
        self._pending: list[Push] = []
        self.host, self.port = host, port
        store = open_store(host, port, timeout_seconds) if host is not None else None
        if store is not None:
            self.port = int(store.port)
        self.sessions = Sessions(self, store)

    def pull(self, session: Session, asked: Mapping[str, Tensor], everything: bool, into: Callable[[Message], T]) -> T:
        """Give a worker what has changed since it last saw it.

        Args:
            session: the worker's.
            asked: name → rows, of parameters of which it wants these rows only; of the others, all that changed.
            everything: all rows of these too, and the start of a step; otherwise ``asked`` alone.
            into: is given the answer, whose tensors may be the server's own, while nothing changes them.
        """
        said: list[list[Any]] = []
        tensors: list[Tensor] = []
        with self.lock:
            if everything:
                session.base = self.version
            for place, (name, parameter) in enumerate(self.parameters.items()):
                if name not in asked and not everything:
                    continue
                if name in self.versions.whole:
                    if self.versions.whole[name] > session.seen.whole[name]:
                        said.append([place, False])
                        tensors.append(narrow(parameter, self.plan) if session.narrow else parameter.detach())
                        session.seen.saw(name, self.versions)
                    continue
                if name in asked or name not in session.asks:
                    ids_R = self.versions.newer(name, session.seen, asked.get(name))
                    if len(ids_R):
                        rows = parameter.detach().index_select(0, ids_R.to(parameter.device))
                        said.append([place, True])
                        tensors += [ids_R.to(torch.int32), narrow(rows, self.plan) if session.narrow else rows]
                        session.seen.saw(name, self.versions, ids_R)
            pushes = self.version * self.pushes_per_update
            data = {"version": self.version, "window": pushes // self.workers, "said": said, **self._ending()}
            return into(Message("values", data, tuple(tensors)))

    def push(self, session: Session, message: Message) -> Message:
        """Take a worker's gradients, and update if they are enough."""
        data, tensors = message.data, list(message.tensors)
        gradients: list[tuple[str, Tensor | None, Tensor]] = []
        for place, rows in data["said"]:
            ids_R = tensors.pop(0).long() if rows else None
            gradients.append((self.names[place], ids_R, tensors.pop(0)))
        with self.lock:
            tau = self.version - session.base
            full = self.limit is not None and sum(self.counts.pushes.values()) >= self.limit
            if full:
                self.ended = self.ended or "finished"
            if self.ended is not None or not self.staleness.admits(tau):
                answer: dict[str, Any] = {"taken": False, "staleness": tau}
            else:
                self.counts.pushes[session.rank] += 1
                answer = {"taken": True, "finite": self._taken(session, data, gradients, tau), "staleness": tau}
            answer |= {"version": self.version, "ask": self.sessions.asked, "told": self.told, **self._ending()}
            self.sessions.changed.notify_all()
        return Message("taken", answer)

    def traffic(self) -> tuple[int, int]:
        """Bytes sent to and received from all workers of other processes until now."""
        with self.lock:
            links = [session.link for session in self.sessions.live.values() if session.link is not None]
            return (
                self.counts.sent_bytes + sum(link.sent_bytes for link in links),
                self.counts.received_bytes + sum(link.received_bytes for link in links),
            )

    def _taken(
        self, session: Session, data: Mapping[str, Any], gradients: list[tuple[str, Tensor | None, Tensor]], tau: int
    ) -> bool:
        try:
            return self._take(push_of(session.rank, tau, data), gradients)
        except Exception as error:
            # half an update is none to go on from: nobody may push onto what it left
            self._pending.clear()
            self.update.drop()
            self.ended = "failed"
            problem = f"The parameter server could not update: {type(error).__name__}: {error}"
            self.failure = self.failure or (problem.rstrip(".") + ".", "Start again from its last checkpoint.")
            if session.link is None:
                raise
            return False

    def _take(self, push: Push, gradients: list[tuple[str, Tensor | None, Tensor]]) -> bool:
        weight = float(push.count) if self.pushes_per_update > 1 else 1.0
        norm = self.update.add(gradients, weight) if push.finite else math.nan
        if not math.isfinite(norm):
            self.counts.not_finite += 1
            if self.after_update is not None:
                self.after_update([replace(push, norm=norm, finite=False)])
            return False
        self._pending.append(replace(push, norm=norm))
        if len(self._pending) >= self.pushes_per_update:
            self.flush()
        return True

    def flush(self) -> None:
        """Update with the pushes there are, though they are fewer than an update's."""
        with self.lock:
            if not self._pending:
                return
            pushes, self._pending = self._pending, []
            if self.before_update is not None:
                self.before_update(pushes)
            weight = float(sum(push.count for push in pushes)) if self.pushes_per_update > 1 else 1.0
            changed = self.update.make(weight, self.staleness.factor([push.staleness for push in pushes]))
            self.version += 1
            for name, ids_R in changed:
                self.versions.changed(name, self.version, ids_R)
            if self.after_update is not None:
                self.after_update(pushes)

    def settle(self) -> None:
        """Apply the weight decay of rows that is outstanding, before the weights are evaluated or saved."""
        optimizer = self.update.optimizer
        settle = getattr(optimizer, "settle", None)
        if settle is not None and any(group.get("weight_decay") for group in optimizer.param_groups):
            with self.lock:
                settle()
                self.version += 1
                for name in self.rows:
                    self.versions.changed(name, self.version)

    def end(self, reason: str = "finished", failure: tuple[str, str] | None = None) -> None:
        """Take no more gradients; workers learn of it with the next answer.

        Args:
            reason: for their record.
            failure: a problem and its remedy, which they then raise.
        """
        with self.lock:
            self.flush()
            self.ended, self.failure = self.ended or reason, self.failure or failure

    def close(self, patience_seconds: float = 10.0) -> None:
        """End, wait so long for the workers to leave, and give up all lines."""
        self.end()
        self.sessions.close(patience_seconds)

    def _ending(self) -> dict[str, Any]:
        return {} if self.ended is None else {"ended": self.ended, "failure": self.failure}
