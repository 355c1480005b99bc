"""Columns that hold text, in pyarrow's terms, and what to say where one does not."""

from __future__ import annotations

from typing import Any

from overnight.errors import UserError


def text_columns(schema: Any) -> list[str]:
    """Names of the columns of an Arrow schema that hold text."""
    return [field.name for field in schema if is_text(field.type)]


def is_text(type: Any) -> bool:
    """Whether an Arrow type is a string or bytes, plain or dictionary-encoded."""
    from pyarrow import types

    if types.is_dictionary(type):
        type = type.value_type
    return any(
        check(type)
        for check in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, _is_view)
    )


def _is_view(type: Any) -> bool:
    return str(type) in ("string_view", "binary_view")


def no_column(path: str, field: str, names: list[str]) -> UserError:
    """The error for a column that is not there; ``names`` are those that would do."""
    return UserError(f"{path} has no column {field!r}.", choose(names))


def choose(names: list[str]) -> str:
    """The remedy where another column must be named."""
    if not names:
        return "It has no column of text."
    return f"Choose one of its columns of text with --text-field: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """pyarrow's own words, without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
