"""A worker: pulls weights, and pushes the gradients that it has computed with them.

Shape suffixes: V rows of a parameter, R rows of a step.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm.asynchronous.gradients import Gradients
from overnight.comm.asynchronous.link import Link, LostError, ServerLostError, call
from overnight.comm.asynchronous.message import Message
from overnight.comm.asynchronous.needed import needs
from overnight.comm.asynchronous.server import ParameterServer
from overnight.comm.asynchronous.sessions import Session, identity
from overnight.comm.asynchronous.versions import by_rows, parameters_of
from overnight.comm.plan import Plan
from overnight.comm.row_sets import touched_rows
from overnight.errors import ElsewhereError, UserError


@dataclass(frozen=True)
class Answer:
    """What the server said to a push.

    Attributes:
        taken: it took the gradients; otherwise pull, and compute them again.
        staleness: τ, updates made since the pull.
        version: updates made.
        finite: the gradients were; otherwise they changed nothing.
        ended: why it takes no more; None while it does.
        asked: it wants to be given what a checkpoint needs of this worker: call ``give``.
        told: what the server tells all workers.
    """

    taken: bool
    staleness: int
    version: int
    finite: bool = True
    ended: str | None = None
    asked: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)


class AsyncWorker:
    """A copy of the model, kept as new as the server's where a step needs it. Made by ``connect`` or ``attach``.

        worker = AsyncWorker.connect("10.0.0.1", 29500, model, rank=1)
        while not answer.ended:
            worker.pull()
            loss(model, batch).backward()
            answer = worker.push(loss=..., count=...)

    Of embeddings and sampled outputs whose gradients are rows (sparse ones, or with a ``Rows`` rule) only the rows of
    the batch and the step's samples are pulled, when the forward comes to them.

    Attributes:
        ended: why the server takes no more gradients; None while it does.
        told: what the server told last.
        said, given: plain data and tensors with which it welcomed this worker.
        sent_bytes, received_bytes: over the line; 0 in the server's own process.
        waiting_seconds: for the server.
        pushes: that the server took.

    Raises:
        ServerLostError: from every call, if the server is gone or silent for longer than the timeout.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        rank: int,
        request: Callable[[Message], Message],
        where: str,
        link: Link | None,
        identity: Mapping[str, str],
    ) -> None:
        self.model, self.plan, self.rank, self.link, self.where = model, plan, rank, link, where
        self._request = request
        self.parameters = parameters_of(model)
        plan.check(self.parameters.items())
        self.gradients = Gradients(self.parameters, plan)
        self.ended: str | None = None
        self.told: dict[str, Any] = {}
        self.waiting_seconds, self.pushes = 0.0, 0
        self._asked = self._answered = 0
        self._names = list(self.parameters)
        self._session: Session | None = None
        needed, self._handles = needs(model, self.parameters, by_rows(model, plan), self.gradients, self._need)
        self._fresh = {name: torch.zeros(len(self.parameters[name]), dtype=torch.bool) for name in needed}
        self._since = (time.perf_counter(), 0.0)
        self._hello = Message("hello", {"rank": rank, "identity": dict(identity), "asks": sorted(needed)})

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        model: nn.Module,
        *,
        rank: int,
        plan: Plan | None = None,
        data: str = "",
        also: Mapping[str, str] | None = None,
        timeout_seconds: float = 300.0,
        wait_seconds: float | None = None,
    ) -> "AsyncWorker":
        """Come to a server in another process.

        Args:
            host, port: where it listens.
            model: this worker's copy; its values are the server's after the first ``pull``.
            rank: number of this worker. One that comes again under its number takes the place of the one before.
            plan, data, also: as the server's.
            timeout_seconds: for each of the server's answers.
            wait_seconds: for it to be there; None is as long.

        Raises:
            ServerLostError: if no server answers there in time.
            UserError: if models, plans, data or versions of torch differ.
        """
        plan, where = plan or Plan(), f"{host}:{port}"
        link = call(host, port, timeout_seconds, timeout_seconds if wait_seconds is None else wait_seconds)
        worker = cls(model, plan, rank, link.request, where, link, identity(model, plan, data, also))
        worker._welcome(worker._ask(worker._hello))
        return worker

    @classmethod
    def attach(cls, server: ParameterServer, model: nn.Module, *, rank: int = 0) -> "AsyncWorker":
        """Work in the server's own process, without a line.

        Args:
            server: the server.
            model: another copy than the server's.
            rank: number of this worker.
        """
        if model is server.model:
            raise UserError("A worker needs a model of its own.", "Give it a copy (copy.deepcopy) of the server's.")
        worker = cls(model, server.plan, rank, _no_line, "this process", None, server.identity)
        session, answer = server.sessions.welcome(worker._hello, None)
        assert session is not None
        worker._session = session
        worker._request = partial(_direct, server, session, worker._put)
        worker._welcome(answer)
        return worker

    @property
    def sent_bytes(self) -> int:
        """Over the line, by this worker."""
        return self.link.sent_bytes if self.link is not None else 0

    @property
    def received_bytes(self) -> int:
        """Over the line, from the server."""
        return self.link.received_bytes if self.link is not None else 0

    def pull(self, rows: Mapping[str, Tensor] | None = None) -> int:
        """Begin a step with the server's weights; returns their version.

        Args:
            rows: name → ids of the rows that the step needs, of parameters of which only needed rows are pulled; the
                forward pulls those that are not named here.
        """
        for fresh in self._fresh.values():
            fresh.zero_()
        asked = {name: self._stale(name, ids) for name, ids in (rows or {}).items()}
        return self._pull(asked, everything=True)

    def pull_all(self) -> int:
        """Every weight as it is on the server, such as to evaluate or to save."""
        return self._pull({name: torch.arange(len(self.parameters[name])) for name in self._fresh}, everything=True)

    def forget(self) -> None:
        """The copy was changed by others: pull all of it again. In the server's own process only."""
        if self._session is not None:
            self._session.forget()

    def push(self, *, loss: float = 0.0, count: int = 1, finite: bool = True) -> Answer:
        """Hand the model's gradients to the server; they are freed.

        Args:
            loss, count: summed loss and number of targets; the count is the push's weight where several are averaged.
            finite: False says that there are none worth having; none are sent.

        Raises:
            UserError: for gradients of rows that were never pulled.
        """
        said, tensors = self.gradients.take() if finite else ([], [])
        self._check(said, tensors)
        now = time.perf_counter()
        computing = now - self._since[0] - (self.waiting_seconds - self._since[1])
        seconds = (computing, self.waiting_seconds - self._since[1])
        self._since = (now, self.waiting_seconds)
        data = {"said": said, "loss": loss, "count": count, "finite": finite, "seconds": seconds}
        answer = self._ask(Message("push", data, tuple(tensors)))
        self.gradients.settle(answer.data["taken"] and answer.data.get("finite", True))
        self.gradients.clear()
        self.pushes += bool(answer.data["taken"])
        self._heard(answer.data)
        told = ("taken", "staleness", "version")
        return Answer(
            **{name: answer.data[name] for name in told},
            finite=answer.data.get("finite", True),
            ended=self.ended,
            asked=self._asked > self._answered,
            told=self.told,
        )

    def give(self, given: Mapping[str, Tensor]) -> None:
        """Answer the server, which has asked for what a checkpoint needs of this worker (``Answer.asked``)."""
        self._heard(self._ask(Message("give", self._giving(given), _tensors(given))).data)

    def close(self, given: Mapping[str, Tensor] | None = None) -> None:
        """Take leave of the server, if it is still there.

        Args:
            given: see ``give``.
        """
        for handle in self._handles:
            handle.remove()
        if self._session is not None:
            self._session.server.sessions.leave(self._session)
        if self.link is not None:
            with suppress(LostError):
                self.link.send_message(Message("bye", self._giving(given), _tensors(given)))
            self.link.close()

    def _giving(self, given: Mapping[str, Tensor] | None) -> dict[str, Any]:
        if given is None:
            return {}
        self._answered = self._asked
        return {"given": list(given), "answered": self._asked}

    def _check(self, said: list[list[Any]], tensors: list[Tensor]) -> None:
        at = 0
        for place, rows in said:
            name = self._names[place]
            gradient = self.parameters[name].grad
            if rows and name in self._fresh and gradient is not None:
                # of a dense one the plan may push rows that the step did not use
                used_R = tensors[at].long() if gradient.is_sparse else touched_rows(gradient)
            else:
                used_R = torch.empty(0, dtype=torch.long)
            if len(used_R) and not bool(self._fresh[name][used_R.cpu()].all()):
                raise UserError(
                    f"The gradient of {name} has rows that were not pulled for this step.",
                    "Call the module itself in the forward, or name its rows in pull(rows=…).",
                )
            at += 1 + bool(rows)

    def _stale(self, name: str, ids: Tensor) -> Tensor:
        """Of these rows those that this step has not pulled yet."""
        if name not in self._fresh:
            raise UserError(
                f"{name!r} is no parameter of which rows are pulled.", f"They are {', '.join(self._fresh) or 'none'}."
            )
        ids_R = ids.detach().flatten().cpu().unique()
        ids_R = torch.masked_select(ids_R, ~self._fresh[name][ids_R])
        self._fresh[name][ids_R] = True
        return ids_R

    def _need(self, name: str, ids: Tensor) -> None:
        asked = self._stale(name, ids)
        if len(asked):
            self._pull({name: asked}, everything=False)

    def _pull(self, asked: Mapping[str, Tensor], everything: bool) -> int:
        ids = tuple(ids_R.to(torch.int32) for ids_R in asked.values())
        answer = self._ask(Message("pull", {"names": list(asked), "everything": everything}, ids))
        if self._session is None:
            self._put(answer)
        self._heard(answer.data)
        if everything:
            self.gradients.begin(answer.data["window"])
        return int(answer.data["version"])

    @torch.no_grad()
    def _put(self, values: Message) -> Message:
        tensors = iter(values.tensors)
        for place, rows in values.data["said"]:
            parameter = self.parameters[self._names[place]]
            if rows:
                ids_R = next(tensors).to(parameter.device, torch.int64)
                parameter.index_copy_(0, ids_R, next(tensors).to(parameter.device, parameter.dtype))
            else:
                parameter.copy_(next(tensors))
        return values

    def _ask(self, message: Message) -> Message:
        began = time.perf_counter()
        try:
            answer = self._request(message)
        except LostError as error:
            self.link = None
            raise ServerLostError(
                f"The parameter server at {self.where} is gone ({error}).",
                "Look for its error; start again from its last checkpoint.",
            ) from error
        finally:
            self.waiting_seconds += time.perf_counter() - began
        if answer.kind == "refused":
            raise UserError(
                f"{answer.data['problem']} at {self.where}.",
                f"Start every rank with the same {answer.data['what']}, from the same files and arguments.",
            )
        return answer

    def _welcome(self, answer: Message) -> None:
        self.said: dict[str, Any] = answer.data["said"]
        self.given = dict(zip(answer.data["names"], answer.tensors, strict=True))
        self._answered = answer.data["ask"]
        self._heard(answer.data)
        self._since = (time.perf_counter(), self.waiting_seconds)

    def _heard(self, data: Mapping[str, Any]) -> None:
        self.told = data.get("told", self.told)
        self._asked = data.get("ask", self._asked)
        self.ended = data.get("ended", self.ended)
        if data.get("failure"):
            raise ElsewhereError(*data["failure"])


def _tensors(given: Mapping[str, Tensor] | None) -> tuple[Tensor, ...]:
    return tuple((given or {}).values())


def _no_line(message: Message) -> Message:
    raise LostError("there is no line")


def _direct(server: ParameterServer, session: Session, put: Callable[[Message], Message], message: Message) -> Message:
    if message.kind == "push":
        return server.push(session, message)
    if message.kind == "give":
        session.take_given(message.data, list(message.tensors))
        return Message("thanks")
    asked = dict(zip(message.data["names"], (ids.long() for ids in message.tensors), strict=True))
    return server.pull(session, asked, message.data["everything"], put)
