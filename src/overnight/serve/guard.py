"""What stands before every request: the server answers to its own names only, and tells browsers to be strict."""

import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

import orjson

from overnight.serve.refusal import RefusalError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware against pages of other origins.

    A name under a stranger's control can be made to point to this machine (DNS rebinding), and a browser then takes the
    stranger's page and this server for one origin. So the Host must be ``localhost``, an address written in numbers
    (no name, so nothing to rebind) or one of ``names``. A request that a page of another origin sends is refused too.

    Args:
        app: what is guarded.
        names: by which the server may be called besides.
    """

    def __init__(self, app: App, names: Collection[str] = ()) -> None:
        self._app, self._names = app, {name.lower() for name in names} | {"localhost"}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve or refuse a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, strict)
            return
        body = orjson.dumps(refusal.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await strict({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await strict({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _refusal(self, scope: Message) -> RefusalError | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = _name(host)
        if name not in self._names and not _numeric(name):
            return RefusalError(
                400, "host", f"This server does not go by the name {name!r}.", "Start it with --name to allow one."
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return RefusalError(
                400, "origin", "Pages of other origins are not served.", "Call it from a program instead."
            )
        return None


def _name(host: str) -> str:
    """A Host header without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
