"""Requests by the hundred, made up from the API's own document: answers as documented, no failure, no hang."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from overnight.evaluate.load import ByteModel
from overnight.serve.app import create_app
from overnight.serve.limits import Limits
from overnight.serve.service import Service

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis (Python 3.11 or newer)")

OPERATIONS = [
    *(("post", f"/api/{name}") for name in ("score", "features", "trace", "classify", "generate")),
    *(("get", path) for path in ("/api/model", "/api/curves", "/healthz")),
]


@pytest.fixture(scope="module")
def schema(model: ByteModel, run: Path) -> Iterator[Any]:
    """The document of a server in this process, which is what the requests are sent to."""
    # So few characters that none of the requests that are made up is refused for its size as a whole.
    limits = Limits(generate_bytes=60, text_chars=200, total_chars=256 * 200, body_bytes=1 << 24)
    app = create_app(Service(model, run, limits), ["testserver"])

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        # schemathesis ends and begins lifespans as it likes, and the server's engine ends with the first
        if scope["type"] == "http":
            await app(scope, receive, send)

    yield schemathesis.openapi.from_asgi("/openapi.json", without_lifespan)
    app.state.engine.close()


def test_every_operation_is_tried(schema: Any) -> None:
    found = [one.ok() for one in schema.get_all_operations()]
    assert sorted((one.method, one.path) for one in found) == sorted(OPERATIONS)


def names_a_unit_twice(body: Any) -> bool:
    units = [entry["unit"] for entry in body.get("fix_units", [])] if isinstance(body, dict) else []
    return len(set(units)) < len(units)


# a GET takes nothing that could be wrong
CASES = [
    (*one, mode) for mode in ("positive", "negative") for one in OPERATIONS if (one[0], mode) != ("get", "negative")
]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_answer_is_documented(schema: Any, method: str, path: str, mode: str) -> None:
    made = schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @hypothesis.settings(
        max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(made)
    def check(case: Any) -> None:
        # JSON Schema has no word for items that are unique in one field, so such a request is valid by the document.
        hypothesis.assume(mode == "negative" or not names_a_unit_twice(case.body))
        case.call_and_validate()

    check()
