"""Workers of a server: who is there, and a thread for each that speaks with it."""

import hashlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from overnight.comm.asynchronous.link import ASKED, Link, LostError, line_store, own_store
from overnight.comm.asynchronous.message import Message, pack
from overnight.comm.asynchronous.versions import NEVER, Versions
from overnight.comm.checks import model_digest
from overnight.comm.plan import Plan

if TYPE_CHECKING:
    from overnight.comm.asynchronous.server import ParameterServer

BETWEEN_LOOKS_SECONDS = 0.05
REFUSAL_SECONDS = 5.0
"""How long the line of a worker that was refused stays open, so that a slow one too learns why."""


class Session:
    """One worker, from its coming to its leaving.

    Args:
        server: whose.
        rank: the worker's.
        asks: parameters of which it asks for the rows that it needs.
        narrow: what it is sent is rounded as the plan says.
        link: None in the server's own process.
    """

    def __init__(self, server: "ParameterServer", rank: int, asks: set[str], narrow: bool, link: Link | None) -> None:
        self.server, self.rank, self.asks, self.narrow, self.link = server, rank, asks, narrow, link
        self.base, self.answered = 0, 0
        self.forget()

    def forget(self) -> None:
        """The worker's copy holds nothing of the server's any more."""
        self.seen = Versions(self.server.parameters, self.server.rows, NEVER)

    def take_given(self, data: Mapping[str, Any], tensors: list[Tensor]) -> None:
        """Keep what the worker gives, if it does."""
        if data.get("given") is not None:
            with self.server.lock:
                # tensors of a line lie in the buffer of the whole message
                given = {name: tensor.clone() for name, tensor in zip(data["given"], tensors, strict=True)}
                self.server.sessions.given[self.rank] = given
                self.answered = int(data["answered"])
                self.server.sessions.changed.notify_all()


class Sessions:
    """All sessions of a server.

    Args:
        server: whose.
        store: where workers ask for a line; None for none but those of this process.

    Attributes:
        live: rank → session.
        given: rank → the tensors that it last gave.
        asked: how often workers were asked to give something.
        changed: is told of every change.
    """

    def __init__(self, server: "ParameterServer", store: Any) -> None:
        self.server = server
        self.changed = threading.Condition(server.lock)
        self.live: dict[int, Session] = {}
        self.given: dict[int, dict[str, Tensor]] = {}
        self.asked = 0
        self._store, self._closed = store, threading.Event()
        self._threads: list[threading.Thread] = []
        if store is not None:
            self._start(self._accept, "parameter server")

    def welcome(self, hello: Message, link: Link | None) -> tuple[Session | None, Message]:
        """A session for who says this, or why not."""
        data, server = hello.data, self.server
        for name, digest in server.identity.items():
            if data["identity"].get(name) != digest:
                problem = f"The {name} of rank {data['rank']} is not that of the parameter server"
                return None, Message("refused", {"problem": problem, "what": name})
        session = Session(server, int(data["rank"]), set(data["asks"]), link is not None, link)
        with server.lock:
            before = self.live.get(session.rank)
            self.live[session.rank] = session
            server.counts.opened += 1
            said, tensors = server.on_join(session.rank) if server.on_join is not None else ({}, {})
            session.answered = self.asked
            self.changed.notify_all()
        if before is not None and before.link is not None:
            before.link.close()
        names = list(tensors)
        answer = {"version": server.version, "ask": self.asked, "told": server.told, "said": said, "names": names}
        return session, Message("welcome", answer, tuple(tensors.values()))

    def leave(self, session: Session) -> None:
        """A session has ended."""
        with self.server.lock:
            if self.live.get(session.rank) is session:
                del self.live[session.rank]
            if session.link is not None:
                self.server.counts.sent_bytes += session.link.sent_bytes
                self.server.counts.received_bytes += session.link.received_bytes
                session.link.sent_bytes = session.link.received_bytes = 0
            self.changed.notify_all()

    def wait_for(self, workers: int, seconds: float) -> bool:
        """Wait until so many are there; returns whether they are."""
        with self.server.lock:
            return self.changed.wait_for(lambda: len(self.live) >= workers, timeout=seconds)

    def ask(self, seconds: float) -> dict[int, dict[str, Tensor]]:
        """Ask all workers of other processes for what they give, and wait so long; returns what each last gave."""
        with self.server.lock:
            # one that did not answer the last time is not waited for again: it may have stalled
            awaited = [s for s in self.live.values() if s.link is not None and s.answered >= self.asked]
            self.asked += 1
            number = self.asked
            self.changed.wait_for(
                lambda: all(s.answered >= number or self.live.get(s.rank) is not s for s in awaited), timeout=seconds
            )
            return dict(self.given)

    def close(self, patience_seconds: float) -> None:
        """Wait for the workers to leave, and give up their lines."""
        with self.server.lock:
            self.changed.wait_for(
                lambda: not any(s.link is not None for s in self.live.values()), timeout=patience_seconds
            )
            lines = [session.link for session in self.live.values() if session.link is not None]
        self._closed.set()
        for link in lines:
            link.close()
        for thread in self._threads:
            thread.join(timeout=1.0)
        self._store = None  # the port is free again

    def _start(self, work: Any, name: str, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        seen, store = 0, self._store
        while not self._closed.wait(BETWEEN_LOOKS_SECONDS):
            asked = store.add(ASKED, 0)
            while seen < asked:
                seen += 1
                self._start(self._serve, f"parameter server, line {seen}", seen)

    def _serve(self, number: int) -> None:
        server = self.server
        try:
            store = own_store(server.port, server.timeout_seconds)
            link = Link(line_store(store, number), 0, server.host or "", server.timeout_seconds)
            session, answer = self.welcome(link.receive(), link)
            link.send_message(answer)
        except (LostError, RuntimeError, KeyError, ValueError):
            return  # whoever asked has gone, or is no worker
        if session is None:
            self._closed.wait(REFUSAL_SECONDS)
            return
        polite = False
        try:
            while not polite:
                polite = self._answer(session, link)
        except LostError:
            pass
        finally:
            with server.lock:
                server.counts.lost += not polite
            self.leave(session)
            link.close()

    def _answer(self, session: Session, link: Link) -> bool:
        """Answer a worker's next message; whether it was its last."""
        message = link.receive()
        if message.kind == "bye":
            session.take_given(message.data, list(message.tensors))
            return True
        if message.kind == "give":
            session.take_given(message.data, list(message.tensors))
            link.send_message(Message("thanks"))
            return False
        if message.kind == "push":
            link.send_message(self.server.push(session, message))
            return False
        asked = dict(zip(message.data["names"], (ids.long() for ids in message.tensors), strict=True))
        link.send(self.server.pull(session, asked, message.data["everything"], pack))
        return False


def identity(model: nn.Module, plan: Plan, data: str, also: Mapping[str, str] | None) -> dict[str, str]:
    """What server and workers must have alike, by name."""
    said = {"model": model_digest(model), "plan": plan.digest(), "data": data, "torch": torch.__version__}
    return {
        name: hashlib.sha256(text.encode()).hexdigest() if len(text) > 64 else text
        for name, text in {**said, **(also or {})}.items()
    }
