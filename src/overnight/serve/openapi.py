"""The OpenAPI 3.1 document of the server, made of the very schemas that requests are checked with."""

from collections.abc import Mapping
from typing import Any

import overnight
from overnight.serve.limits import Limits

Json = dict[str, Any]

_REFUSALS = {
    "400": "The request is not JSON, or is sent to another host's name.",
    "404": "There is no such thing.",
    "408": "The request did not arrive in time.",
    "413": "The request is too large.",
    "415": "The request is not of the type application/json.",
    "422": "A field is missing, unknown or out of its range; the sentence names it.",
    "429": "Too many texts are being written.",
    "500": "The model or the server failed.",
    "503": "Too many requests are in work, or this one waited too long for a place; the same one may be served later.",
    "504": "The answer takes too long on this model here; the sentence says how much fits.",
}
_OF_POSTS = ("400", "408", "413", "415", "422", "500", "503", "504")


def openapi(schemas: Mapping[str, Json], limits: Limits) -> Json:
    """The document.

    Args:
        schemas: of the requests' bodies, by the last part of the address.
        limits: of the server.
    """
    posts = {
        "features": ("The cell state of each text, as the model knows it at its end", _features()),
        "score": ("Bits of each text", _scored()),
        "trace": ("What a text does to the units, byte by byte", _traced()),
        "classify": ("The class of each text", _classified()),
    }
    paths: Json = {
        f"/api/{name}": {"post": _post(name, summary, _json(answer), schemas[name])}
        for name, (summary, answer) in posts.items()
    }
    paths["/api/classify"]["post"]["responses"]["404"] = _refusal("404")
    paths["/api/trace"]["post"]["responses"]["404"] = _refusal("404")
    event = _of({"event": {"enum": ["start", "text", "end", "error"]}, "data": {"type": "string"}})
    stream = {"content": {"text/event-stream": {"schema": event}}, "description": _EVENTS}
    generate = _post("generate", "Text that goes on from a prompt, streamed", stream, schemas["generate"])
    generate["responses"]["429"] = _refusal("429")
    paths["/api/generate"] = {"post": generate}
    paths["/api/model"] = {"get": _get("model", "What is served", {"type": "object"})}
    paths["/api/curves"] = {"get": _get("curves", "Training curves of the run", {"type": "object"})}
    paths["/api/curves"]["get"]["responses"]["404"] = _refusal("404")
    health = _of({"status": {"const": "ok"}, "requests": {"type": "integer"}, "lanes": {"type": "integer"}})
    paths["/healthz"] = {"get": _get("health", "Whether the server is up, and how busy", health)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "overnight",
            "version": overnight.__version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                'A byte language model. Every text is read as "\\n " + text + " ", with HTML entities resolved and line'
                " feeds as spaces; bits are those of all these bytes but the first. A request may have"
                f" {limits.body_bytes:,} bytes and take {limits.seconds:g} seconds."
            ),
        },
        "paths": paths,
        "components": {"schemas": {"Refusal": _REFUSAL}},
    }


_REFUSAL: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "problem", "remedy"],
            "properties": {"code": {"type": "string"}, "problem": {"type": "string"}, "remedy": {"type": "string"}},
        }
    },
}

_EVENTS = (
    "Server-sent events, each of this shape; `data` is JSON. `start`: the settings, the seed among them. `text`: `text`"
    " (what became known of it), `bytes`, and `values` of the shown unit after each of them, null if none is shown."
    " `end`: how many `bytes` were written. `error`: as a refusal; what came before it stands."
)


def _of(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


_NUMBER: Json = {"type": "number"}
_WHOLE: Json = {"type": "integer"}
_SCORE: Json = {"bits": _NUMBER, "bytes": _WHOLE, "bits_per_byte": _NUMBER}
_RESULT: Json = _of(
    {"label": {"type": "string"}, "probabilities": _list(_of({"label": {"type": "string"}, "probability": _NUMBER}))}
)


def _features() -> Json:
    return _of({"features": _list(_list(_NUMBER))})


def _scored() -> Json:
    return _of({"scores": _list(_of(_SCORE))})


def _classified() -> Json:
    return _of({"classifier": {"type": "string"}, "results": _list(_RESULT)})


def _traced() -> Json:
    return _of(
        _SCORE
        | {
            "layer": _WHOLE,
            "text": _list({"type": "integer", "minimum": 0, "maximum": 255}),
            "bits_of_bytes": _list(_NUMBER),
            "units": _list(_of({"unit": _WHOLE, "values": _list(_NUMBER)})),
            "top": _list(_of({"unit": _WHOLE, "last": _NUMBER, "spread": _NUMBER})),
            "classes": {"anyOf": [_RESULT, {"type": "null"}]},
        }
    )


def _json(schema: Json) -> Json:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _refusal(status: str) -> Json:
    schema = {"$ref": "#/components/schemas/Refusal"}
    found: Json = {"description": _REFUSALS[status], "content": {"application/json": {"schema": schema}}}
    if status in ("429", "503"):
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def _get(name: str, summary: str, answer: Json) -> Json:
    return {"operationId": name, "summary": summary, "responses": {"200": _json(answer), "400": _refusal("400")}}


def _post(name: str, summary: str, answer: Json, body: Json) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": answer} | {status: _refusal(status) for status in _OF_POSTS},
    }
