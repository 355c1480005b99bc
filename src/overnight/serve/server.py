"""Running the server: the socket, the threads, the end."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.evaluate.load import ByteModel
    from overnight.serve.limits import Limits

CLOSING_SECONDS = 10
"""What requests in work get when the server is asked to end."""


def serve(
    model: "ByteModel",
    run: Path,
    limits: "Limits",
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    names: Collection[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a model until a signal ends it (SIGINT or SIGTERM); requests in work get some seconds to finish.

    Args:
        model: loaded.
        run: its run folder.
        limits: of the server.
        host: address to listen at; loopback is reached from this machine only.
        port: to listen at; 0 takes a free one.
        names: that the server may be called by besides ``localhost`` and addresses in numbers.
        on_ready: called with the page's address once connections are taken.

    Raises:
        UserError: starlette or uvicorn is not installed, or the address cannot be listened at.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("The server needs uvicorn.", "Install it with: pip install 'overnight[serve]'") from error
    from overnight.serve.app import create_app
    from overnight.serve.connections import Failures, connection
    from overnight.serve.service import Service

    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().set_exception_handler(Failures())
            await super().serve(sockets)

    listening = _listen(host, port)
    with listening:
        app = create_app(Service(model, run, limits), names)
        address = f"http://{_shown(host, listening, names)}:{listening.getsockname()[1]}/"
        most = min(limits.connections, _descriptors() // 2)
        config = uvicorn.Config(
            app,
            http=connection(most, min(10.0, limits.seconds)),
            ws="none",
            backlog=max(1, min(128, _descriptors() // 16)),  # asyncio takes that many at once before it closes any
            log_level="warning",
            timeout_graceful_shutdown=CLOSING_SECONDS,
            server_header=False,
            lifespan="on",
        )
        if on_ready is not None:
            on_ready(address)
        Server(config).run(sockets=[listening])


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise UserError(f"{port} is not a port.", "Choose one from 1 to 65535, or 0 for a free one.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(256)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The server cannot listen at {host}, port {port}: {reason}.", "Choose another with --host and --port."
        ) from error
    return listening


def _shown(host: str, listening: socket.socket, names: Collection[str]) -> str:
    """A host that the server answers to: one of its names, or the address in numbers."""
    if host == "localhost" or host in names:
        return host
    numeric: str = listening.getsockname()[0]
    if ipaddress.ip_address(numeric.partition("%")[0]).is_unspecified:
        if names:
            return next(iter(names))
        numeric = _outward(listening.family)
    return f"[{numeric}]" if ":" in numeric else numeric


def _outward(family: socket.AddressFamily) -> str:
    """The address by which others reach this machine; loopback where there is none."""
    beyond, loopback = ("2001:db8::1", "::1") if family == socket.AF_INET6 else ("192.0.2.1", "127.0.0.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((beyond, 9))  # sends nothing: a datagram socket only chooses its way
            return str(asking.getsockname()[0])
    except OSError:
        return loopback


def _descriptors() -> int:
    """How many files and sockets this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
