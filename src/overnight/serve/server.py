"""Running the server: the socket, the threads, the end."""

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
    from overnight.serve.service import Service

    listening = _listen(host, port)
    with listening:
        app = create_app(Service(model, run, limits), names)
        address = f"http://{_shown(host)}:{listening.getsockname()[1]}/"
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=CLOSING_SECONDS, server_header=False, lifespan="on"
        )
        if on_ready is not None:
            on_ready(address)
        uvicorn.Server(config).run(sockets=[listening])


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


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname() if not loopback(socket.gethostname()) else "localhost"
    return f"[{host}]" if ":" in host else host
