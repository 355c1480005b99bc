"""An evaluation that says what it was told to say."""

from typing import Any


def scripted_record(*, model: Any, values: Any, final: bool, **_: Any) -> dict[str, Any]:
    """The next of the values, which are pairs of a step and bits per byte; the last one for ever."""
    model.looks = getattr(model, "looks", -1) + 1
    value = float(values[min(model.looks, len(values) - 1)][1])
    return {"split": "valid", "bits_per_byte": value, "low": value, "high": value, "bytes": 1}
