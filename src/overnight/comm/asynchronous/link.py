"""A line between the server and one worker: a process group of these two, so that no other notices when it breaks."""

import os
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from overnight.comm.asynchronous.message import Message, pack, unpack
from overnight.errors import UserError

ASKED = "overnight/async/asked"
"""The store's count of workers that have asked for a line."""
BETWEEN_TRIES_SECONDS = 0.1


class LostError(ConnectionError):
    """The other end is gone, or has said nothing for too long."""


class ServerLostError(UserError):
    """The server of a worker is gone, or has said nothing for too long."""


class Link:
    """Sends and receives whole messages between two processes.

    Args:
        store: of this line alone.
        rank: 0 for the server, 1 for the worker.
        host: an address of this machine that the other end reaches; "" leaves the choice to gloo.
        timeout_seconds: after which the other end counts as lost.

    Attributes:
        sent_bytes, received_bytes: of all messages.

    Raises:
        LostError: if the other end does not come.
    """

    def __init__(self, store: Any, rank: int, host: str, timeout_seconds: float) -> None:
        self.timeout, self.peer = timedelta(seconds=timeout_seconds), 1 - rank
        self.sent_bytes, self.received_bytes = 0, 0
        group: Any = dist.ProcessGroupGloo
        self.group: Any = None
        options = group._Options()
        options._timeout, options._threads = self.timeout, 1
        options._devices = [_device(host)]
        try:
            self.group = group(store, rank, 2, options)
        except RuntimeError as error:
            raise LostError(first_line(error)) from error

    def send(self, packed: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Send a message that ``pack`` made buffers of.

        Raises:
            LostError: if the other end does not take it.
        """
        self._wait("send", torch.tensor([len(part) for part in packed]))
        for part in packed:
            self._wait("send", part)
            self.sent_bytes += len(part)

    def receive(self) -> Message:
        """The other end's next message.

        Raises:
            LostError: if none comes.
        """
        sizes = torch.empty(2, dtype=torch.int64)
        self._wait("recv", sizes)
        said, body = (torch.empty(size, dtype=torch.uint8) for size in sizes.tolist())
        self._wait("recv", said)
        self._wait("recv", body)
        self.received_bytes += len(said) + len(body)
        return unpack(said, body)

    def send_message(self, message: Message) -> None:
        """Send a message; see ``send``."""
        self.send(pack(message))

    def request(self, message: Message) -> Message:
        """Say something, and wait for the answer."""
        self.send_message(message)
        return self.receive()

    def close(self) -> None:
        """Give up the line; whoever waits at either end learns of it."""
        group, self.group = self.group, None
        if group is not None:
            group.abort()

    def _wait(self, what: str, part: torch.Tensor) -> None:
        group = self.group
        if group is None:
            raise LostError("the line is closed")
        if part.numel():
            try:
                done = getattr(group, what)([part], self.peer, 0).wait(self.timeout)
            except RuntimeError as error:
                raise LostError(first_line(error)) from error
            # an aborted one returns, and has received nothing
            if not done or self.group is None:
                raise LostError("the line is closed")


def open_store(host: str, port: int, timeout_seconds: float) -> Any:
    """The server's store, to which workers come.

    Raises:
        UserError: if the port is taken.
    """
    try:
        return _store(host, port, timeout_seconds, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        raise UserError(
            f"The parameter server cannot listen at {host}:{port} ({first_line(error)}).", "Choose another port."
        ) from error


def own_store(port: int, timeout_seconds: float) -> Any:
    """The server's store, for another of its threads: a store's client does one thing at a time."""
    return _store("127.0.0.1", port, timeout_seconds, is_master=False)


def _store(host: str, port: int, timeout_seconds: float, **options: Any) -> Any:
    module: Any = dist
    return module.TCPStore(host, port, timeout=timedelta(seconds=timeout_seconds), **options)


def find_server(host: str, port: int, timeout_seconds: float) -> None:
    """Wait until somebody listens there.

    Raises:
        ServerLostError: if nobody does in time.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=max(0.01, min(left, 5.0))).close()
            return
        except OSError as error:
            if time.monotonic() + BETWEEN_TRIES_SECONDS > end:
                raise ServerLostError(
                    f"No parameter server answers at {host}:{port} within {timeout_seconds:g} s "
                    f"({error.strerror or error}).",
                    "Look whether rank 0 runs there, and whether this host reaches it.",
                ) from error
        time.sleep(BETWEEN_TRIES_SECONDS)


def call(host: str, port: int, timeout_seconds: float, wait_seconds: float) -> Link:
    """A worker's line to the server.

    Args:
        host, port: where it listens.
        timeout_seconds: of each message.
        wait_seconds: for somebody to listen there.

    Raises:
        ServerLostError: if nobody answers there in time.
    """
    find_server(host, port, wait_seconds)
    try:
        store, number = _ask(host, port, timeout_seconds)
        return Link(line_store(store, number), 1, _own_address(host, port), timeout_seconds)
    except (RuntimeError, LostError) as error:
        raise ServerLostError(
            f"What listens at {host}:{port} is no parameter server, or one that is ending ({first_line(error)}).",
            "Look whether rank 0 runs there, and start again.",
        ) from error


def _ask(host: str, port: int, timeout_seconds: float) -> tuple[Any, int]:
    """The store, and the number of this line."""
    found: list[tuple[Any, int] | RuntimeError] = []

    def ask() -> None:
        try:
            store = _store(host, port, timeout_seconds, is_master=False)
            found.append((store, store.add(ASKED, 1)))
        except RuntimeError as error:
            found.append(error)

    # torch 2.13 waits for ever for what takes a connection and then says nothing
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if not found:
        raise LostError(f"it has said nothing for {timeout_seconds:g} s")
    if isinstance(found[0], RuntimeError):
        raise found[0]
    return found[0]


def line_store(store: Any, number: int) -> Any:
    """The part of the store in which the two ends of a line find each other."""
    return dist.PrefixStore(f"overnight/async/{number}", store)  # type: ignore[attr-defined]


def first_line(error: BaseException) -> str:
    """What an error says, without gloo's addresses of source files."""
    text = str(error).partition("\n")[0]
    return text.rpartition("] ")[2].partition(". This is")[0].rstrip(".") if "gloo/" in text else text.rstrip(".")


def _device(host: str) -> Any:
    """The interface that the environment names, as for any group of gloo, else that of the address."""
    group: Any = dist.ProcessGroupGloo
    name = os.environ.get("GLOO_SOCKET_IFNAME", "").partition(",")[0]
    if name:
        return group.create_device(interface=name)
    if host:
        try:
            return group.create_device(hostname=host)
        except RuntimeError:  # not an address of this machine
            pass
    return group.create_default_device()


def _own_address(host: str, port: int) -> str:
    """The address by which this machine reaches another; nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
