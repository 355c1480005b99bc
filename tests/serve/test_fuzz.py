"""Requests by the thousand, made up from the API's own document: answers as documented, no failure, no hang."""

import hypothesis
import pytest
from starlette.testclient import TestClient

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis (Python 3.11 or newer)")


@pytest.fixture
def schema(client: TestClient) -> object:
    """The document of a server in this process."""
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


made = schemathesis.pytest.from_fixture("schema") if hasattr(schemathesis, "pytest") else None


@made.parametrize()
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_every_answer_is_documented(case: object, client: TestClient) -> None:
    answer = case.call(session=client, base_url="http://localhost")  # type: ignore[attr-defined]
    case.validate_response(answer)  # type: ignore[attr-defined]
