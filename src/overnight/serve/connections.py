"""Connections to the server: how many there may be, and how long one may take to say what it wants."""

import asyncio
import logging
import time
from typing import Any

_LOG = logging.getLogger("overnight.serve")


def connection(most: int, head_seconds: float) -> type[asyncio.Protocol]:
    """The protocol of a connection that is closed if no whole request header comes in time, or if there are too many.

    Where there are too many, the one that has waited the longest for its header goes; where every one has a request in
    work, the newest goes. So connections that say nothing keep nobody out.

    Args:
        most: connections at once.
        head_seconds: from the opening, or from the first byte of a later request, to the end of the header.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        _waits_since = 0.0
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Take it in, and close one if there are too many."""
            super().connection_made(transport)
            self._wait()
            if len(self.connections) > most:
                others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
                waiting = [one for one in others if not one._in_work and not one.transport.is_closing()]
                min(waiting, key=lambda one: one._waits_since, default=self).transport.abort()

        def data_received(self, data: bytes) -> None:
            """Read what came."""
            super().data_received(data)
            if self._in_work:
                self._stop_waiting()
            elif self._late is None and not self.transport.is_closing():
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            self._stop_waiting()
            super().connection_lost(exc)

        @property
        def _in_work(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._waits_since = time.monotonic()
            self._late = self.loop.call_later(head_seconds, self._close)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _close(self) -> None:
            self._late = None
            if not self._in_work:
                self.transport.close()

    return Connection


class Failures:
    """An asyncio exception handler that says once a minute, and not for each attempt, that nobody can be let in."""

    def __init__(self) -> None:
        self._said = -60.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a failure of the loop."""
        if "socket.accept()" not in str(context.get("message")):
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now - self._said >= 60:
            self._said = now
            _LOG.error("no connection can be taken: %s", context.get("exception"))
