"""An answer that is no: what the server says instead of a result."""

from collections.abc import Mapping
from typing import Any


class RefusalError(Exception):
    """A request that is not served, and why.

    Args:
        status: of HTTP.
        code: one word for programs.
        problem: one sentence for people that ends with a full stop.
        remedy: one sentence that says what to do about it, or empty.
        headers: of the answer.

    >>> RefusalError(422, "field", "top must be at most 64.").body()
    {'error': {'code': 'field', 'problem': 'top must be at most 64.', 'remedy': ''}}
    """

    def __init__(
        self, status: int, code: str, problem: str, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.status, self.code, self.problem, self.remedy = status, code, problem, remedy
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"code": self.code, "problem": self.problem, "remedy": self.remedy}}


def too_long(seconds: float, step_seconds: float) -> RefusalError:
    """The answer takes more time than a request has, and would again.

    Args:
        seconds: of a request.
        step_seconds: that the model takes for a byte of every text in work.

    >>> too_long(60, 0.01).remedy
    'Ask for at most about 6,000 bytes a text.'
    """
    most = float(f"{seconds / step_seconds:.2g}")
    return RefusalError(
        504,
        "too_long",
        f"The answer was not complete after {seconds:g} seconds: it is too long for this model here.",
        f"Ask for at most about {max(1, int(most)):,} bytes a text.",
    )


def busy(problem: str, status: int = 503) -> RefusalError:
    """The server has too much to do just now; the same request may be served later."""
    return RefusalError(status, "busy", problem, "Try again in a moment.", {"Retry-After": "1"})
