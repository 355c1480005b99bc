"""What a request to each address may hold."""

from typing import Any

from overnight.serve.limits import Limits


def request_schemas(limits: Limits, units: int, layers: int) -> dict[str, dict[str, Any]]:
    """JSON Schemas of the bodies, by the last part of the address.

    Args:
        limits: of the server.
        units: of a layer of the model.
        layers: of the model.
    """
    text = {"type": "string", "maxLength": limits.text_chars}
    texts = {
        "type": "array",
        "items": text,
        "minItems": 1,
        "maxItems": limits.texts,
        "description": f"Together they may have {limits.total_chars:,} characters.",
    }
    unit = {"type": "integer", "minimum": 0, "maximum": units - 1}
    layer = {
        "type": "integer",
        "minimum": -layers,
        "maximum": layers - 1,
        "default": -1,
        "description": "Counted from the bottom, or from the top where negative.",
    }
    classifier = {
        "type": ["string", "null"],
        "maxLength": 200,
        "default": None,
        "description": "The name of one of the run's classifiers.",
    }
    length = min(400, limits.generate_bytes)
    fix = _object({"unit": unit, "value": {"type": "number", "minimum": -100, "maximum": 100}}, ["unit", "value"])
    return {
        "score": _object({"texts": texts}, ["texts"]),
        "features": _object(
            {
                "texts": texts,
                "layer": layer,
                "pool": {"type": "string", "enum": ["last", "mean", "max"], "default": "last"},
                "tanh": {"type": "boolean", "default": False},
            },
            ["texts"],
        ),
        "classify": _object({"texts": texts, "classifier": classifier}, ["texts"]),
        "trace": _object(
            {
                "text": {"type": "string", "maxLength": limits.trace_chars},
                "units": {"type": "array", "items": unit, "maxItems": 16, "default": []},
                "top": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 64,
                    "default": 8,
                    "description": "Units to name: those whose tanh(c) varies most; `spread` is its deviation.",
                },
                "layer": layer,
                "classifier": classifier,
            },
            ["text"],
        ),
        "generate": _object(
            {
                "prompt": {"type": "string", "maxLength": limits.prompt_chars, "default": ""},
                "length": {"type": "integer", "minimum": 1, "maximum": limits.generate_bytes, "default": length},
                "temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0},
                "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": 256, "default": None},
                "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1, "default": None},
                "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": (1 << 53) - 1, "default": None},
                "fix_units": {
                    "type": "array",
                    "items": fix,
                    "maxItems": 16,
                    "default": [],
                    "description": (
                        "Cell units that are set to a value at every step, from the prompt's first byte on; each one"
                        " may be named once."
                    ),
                },
                "unit": {
                    **unit,
                    "type": ["integer", "null"],
                    "default": None,
                    "description": "Send this unit's value after each byte.",
                },
                "layer": layer,
            },
            [],
        ),
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": required} if required else {})
