"""The part of JSON Schema that the requests need: what the OpenAPI document promises is what is checked."""

from collections.abc import Callable, Mapping
from typing import Any

from overnight.serve.refusal import RefusalError

Schema = Mapping[str, Any]


def checked(value: Any, schema: Schema, name: str = "") -> Any:
    """`value` with the defaults of absent fields, and whole numbers as int.

    Knows ``type`` (object, array, string, integer, number, boolean and null, or a list of them), ``properties``
    (others are refused), ``required``, ``items``, ``enum``, ``default``, and least and largest numbers, lengths, items.

    Raises:
        RefusalError: 422 that names the field and what it must be.

    >>> schema = {"type": "object", "properties": {"top": {"type": "integer", "maximum": 64, "default": 8}}}
    >>> checked({}, schema), checked({"top": 3.0}, schema)
    ({'top': 8}, {'top': 3})
    >>> checked({"top": 65}, schema)
    Traceback (most recent call last):
        ...
    overnight.serve.refusal.RefusalError: top must be at most 64.
    """
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = next((kind for kind in types if _is(value, kind)), None)
    if kind is None:
        raise _wrong(name, "must be " + " or ".join(_NAMES[one] for one in types))
    if kind in ("integer", "number"):
        value = int(value) if kind == "integer" else float(value)
    if value is not None and "enum" in schema and value not in schema["enum"]:
        raise _wrong(name, "must be one of " + ", ".join(map(str, schema["enum"])))
    for rule, kinds, fails, words in _RULES:
        if rule in schema and kind in kinds and fails(value, schema[rule]):
            raise _wrong(name, words.format(schema[rule], "" if schema[rule] == 1 else "s"))
    if kind == "array":
        return [checked(item, schema["items"], f"{name}[{index}]") for index, item in enumerate(value)]
    return _object(value, schema, name) if kind == "object" else value


def _object(value: Mapping[str, Any], schema: Schema, name: str) -> dict[str, Any]:
    known = schema["properties"]
    prefix = f"{name}." if name else ""
    for field in value:
        if field not in known:
            raise _wrong(f"{prefix}{field}", "is not a field", f"Fields: {', '.join(known)}.")
    for field in schema.get("required", ()):
        if field not in value:
            raise _wrong(f"{prefix}{field}", "is missing")
    return {
        field: checked(value[field], rule, f"{prefix}{field}") if field in value else rule.get("default")
        for field, rule in known.items()
    }


def _is(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (kind == "number" or isinstance(value, int) or value.is_integer())
    return isinstance(value, {"object": dict, "array": list, "string": str}[kind])


_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_NUMBERS = ("integer", "number")
_RULES: tuple[tuple[str, tuple[str, ...], Callable[[Any, Any], bool], str], ...] = (
    ("minimum", _NUMBERS, lambda value, bound: value < bound, "must be at least {}"),
    ("exclusiveMinimum", _NUMBERS, lambda value, bound: value <= bound, "must be above {}"),
    ("maximum", _NUMBERS, lambda value, bound: value > bound, "must be at most {}"),
    ("maxLength", ("string",), lambda value, bound: len(value) > bound, "must have at most {} character{}"),
    ("minItems", ("array",), lambda value, bound: len(value) < bound, "must have at least {} item{}"),
    ("maxItems", ("array",), lambda value, bound: len(value) > bound, "must have at most {} item{}"),
)


def _wrong(name: str, what: str, remedy: str = "") -> RefusalError:
    return RefusalError(422, "field", f"{name or 'The body'} {what}.", remedy)
