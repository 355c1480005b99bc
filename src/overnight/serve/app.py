"""The server over HTTP: addresses, bodies, streams, and clients that go away."""

import asyncio
import codecs
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from overnight.errors import UserError
from overnight.serve.engine import Engine, Job
from overnight.serve.guard import Guard
from overnight.serve.openapi import openapi
from overnight.serve.refusal import RefusalError
from overnight.serve.requests import request_schemas
from overnight.serve.schema import checked
from overnight.serve.service import Service, Work

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/text.js": ("text.js", "text/javascript"),
    "/writing.js": ("writing.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_LOG = logging.getLogger("overnight.serve")


class Server:
    """The handlers of the addresses.

    Args:
        service: what they answer with.
        engine: what they wait for.
    """

    def __init__(self, service: Service, engine: Engine) -> None:
        self.service, self.engine, self.limits = service, engine, service.limits
        self.schemas = request_schemas(service.limits, service.units, service.layers)
        self.document = orjson.dumps(openapi(self.schemas, service.limits))

    async def answer(self, request: "Request") -> "Response":
        """Features, scores, traces and classes: all at once."""
        name = request.url.path.rpartition("/")[2]
        asked = await self._asked(request, name)
        work: Work = getattr(self.service, name)(asked)
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        def tell(error: Exception | None) -> None:
            if not finished.done():
                finished.set_result(None) if error is None else finished.set_exception(error)

        job = Job(work.lanes, _from_thread(loop, tell), held_bytes=work.held_bytes)
        self.engine.submit(job)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({finished, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not finished.done():
                job.cancel()
            await finished
        finally:
            job.cancel()
            gone.cancel()
        return _json(await loop.run_in_executor(None, work.answer))

    async def generate(self, request: "Request") -> "Response":
        """Text as it is written, in server-sent events."""
        from starlette.responses import StreamingResponse

        asked = await self._asked(request, "generate")
        loop = asyncio.get_running_loop()
        written: asyncio.Queue[tuple[int, float | None] | Exception | None] = asyncio.Queue()
        put = _from_thread(loop, written.put_nowait)
        work, settings = self.service.generate(asked, lambda byte, value: put((byte, value)))
        job = Job(work.lanes, put, stream=True)
        self.engine.submit(job)
        return StreamingResponse(_events(written, settings, job), media_type="text/event-stream")

    async def model(self, request: "Request") -> "Response":
        """What is served."""
        return _json(await asyncio.get_running_loop().run_in_executor(None, self.service.about))

    async def curves(self, request: "Request") -> "Response":
        """The training curves."""
        return _json(await asyncio.get_running_loop().run_in_executor(None, self.service.curves))

    async def health(self, request: "Request") -> "Response":
        """That the server is up."""
        return _json({"status": "ok", **self.engine.load()})

    async def described(self, request: "Request") -> "Response":
        """The OpenAPI document."""
        return _json(self.document)

    async def asset(self, request: "Request") -> "Response":
        """A part of the page."""
        from starlette.responses import Response

        name, kind = _ASSETS[request.url.path]
        return Response((PAGE / name).read_bytes(), media_type=kind)

    async def _asked(self, request: "Request", name: str) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusalError(415, "type", "The request is not of the type application/json.", "Set its Content-Type.")
        try:
            body = await asyncio.wait_for(self._body(request), self.limits.seconds)
        except asyncio.TimeoutError:
            raise RefusalError(408, "late", f"The request did not arrive in {self.limits.seconds:g} seconds.") from None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RefusalError(400, "json", f"The body is not valid JSON: {error}.", "Send one JSON object.") from error
        found: dict[str, Any] = checked(value, self.schemas[name])
        return found

    async def _body(self, request: "Request") -> bytes:
        most = self.limits.body_bytes
        too_large = RefusalError(413, "too_large", f"The request has more than {most:,} bytes.", "Send less at once.")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
        return bytes(body)


def create_app(service: Service, names: Collection[str] = ()) -> "Starlette":
    """The server as an ASGI application; its engine ends with its lifespan.

    Args:
        service: a model and its run.
        names: that the server may be called by besides ``localhost`` and addresses in numbers.

    Raises:
        UserError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response
        from starlette.routing import Route
    except ImportError as error:
        raise UserError("The server needs starlette.", "Install it with: pip install 'overnight[serve]'") from error

    engine = Engine(service.batch, service.limits)
    server = Server(service, engine)

    async def refused(request: "Request", error: Exception) -> "Response":
        if isinstance(error, ClientDisconnect):
            return Response(status_code=499)
        if isinstance(error, HTTPException):
            problems = {404: "There is nothing at this address.", 405: "This address does not take this method."}
            problem = problems.get(error.status_code, error.detail)
            error = RefusalError(error.status_code, "address", problem, "See /openapi.json.", error.headers)
        refusal = _refusal_of(error)
        return _json(refusal.body(), refusal.status, refusal.headers)

    @contextlib.asynccontextmanager
    async def lifespan(app: "Starlette") -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, engine.close)

    kinds = (RefusalError, UserError, HTTPException, ClientDisconnect, Exception)
    posts: dict[str, Callable[..., Awaitable[Any]]] = dict.fromkeys(
        ("features", "score", "trace", "classify"), server.answer
    )
    posts["generate"] = server.generate
    gets = {"/api/model": server.model, "/api/curves": server.curves, "/healthz": server.health}
    gets |= {"/openapi.json": server.described} | dict.fromkeys(_ASSETS, server.asset)
    app = Starlette(
        routes=[
            *(Route(f"/api/{name}", endpoint, methods=["POST"]) for name, endpoint in posts.items()),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
        ],
        middleware=[Middleware(Guard, names=names)],
        exception_handlers=dict.fromkeys(kinds, refused),
        lifespan=lifespan,
    )
    app.state.engine = engine
    return app


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Response":
    from starlette.responses import Response

    body = value if isinstance(value, bytes) else orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


async def _gone(request: "Request") -> None:
    """Returns when the client has hung up; its request was read to the end before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(written: Any, settings: dict[str, Any], job: Job) -> AsyncIterator[bytes]:
    """Everything written since the last event in one; whoever stops reading ends the writing."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    count = 0
    try:
        yield _event("start", settings)
        while True:
            entries = [await written.get()]
            while not written.empty():
                entries.append(written.get_nowait())
            pairs = [entry for entry in entries if isinstance(entry, tuple)]
            ended = len(pairs) < len(entries)
            count += len(pairs)
            values = [value for _, value in pairs]
            text = decoder.decode(bytes(byte for byte, _ in pairs), final=ended)
            if pairs or text:
                shown = None if None in values else values
                yield _event("text", {"text": text, "bytes": [byte for byte, _ in pairs], "values": shown})
            if ended:
                error = entries[-1]
                if error is not None:
                    yield _event("error", _refusal_of(error).body())
                else:
                    yield _event("end", {"bytes": count})
                return
    finally:
        job.cancel()


def _refusal_of(error: Any) -> RefusalError:
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, UserError):
        return RefusalError(500, "model", error.problem, error.remedy)
    _LOG.error("a request failed", exc_info=error)
    return RefusalError(500, "internal", "The server failed.", "Its log says more.")


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[Any], None]) -> Callable[[Any], None]:
    def later(value: Any) -> None:
        # a loop that is closed has nobody left who waits
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, value)

    return later
