"""Malformed records: the first one stops the run, or they are counted and listed."""

from __future__ import annotations

from typing import TypedDict

from overnight.errors import UserError

LISTED = 100


class Fault(TypedDict):
    """One record that was left out; ``line`` counts from 1 (rows for column formats), None where there is none."""

    path: str
    line: int | None
    reason: str


class Faults:
    """Collects malformed records of one piece of work.

    Args:
        stop: raise at the first one.
    """

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.count = 0
        self.listed: list[Fault] = []

    def add(self, path: str, line: int | None, reason: str) -> None:
        """Note a malformed record.

        Raises:
            UserError: where the first one stops the run.
        """
        if self.stop:
            place = path if line is None else f"{path}:{line}"
            raise UserError(
                f"{place}: {reason}.",
                "Correct it, or add --on-error skip to leave such records out and list them.",
            )
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append({"path": path, "line": line, "reason": reason})

    def mark(self) -> tuple[int, int]:
        """Where the collection stands, for ``back_to``."""
        return self.count, len(self.listed)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what came after a mark."""
        self.count = mark[0]
        del self.listed[mark[1] :]


def too_long(limit: int) -> str:
    """The reason for a record longer than ``limit`` bytes."""
    return f"the record is longer than {limit / 1e6:.6g} MB (--max-document-mb)"
