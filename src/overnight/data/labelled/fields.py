"""Which field is the text and which the label."""

from __future__ import annotations

from collections.abc import Sequence

from overnight.data.ingest.fields import WELL_KNOWN
from overnight.errors import UserError

LABELS = ("label", "sentiment", "polarity", "class", "category", "target", "y", "rating", "stars", "score")
"""Names of fields that are taken for the label, best first."""


def choose_fields(
    path: str, names: Sequence[str], text_field: str | None, label_field: str | None, labelled: bool
) -> tuple[str, str | None]:
    """(text field, label field) among `names`; what is not named is guessed where it is obvious.

    Args:
        path: for messages.
        names: the fields there are.
        text_field: as the user named it, or None.
        label_field: likewise.
        labelled: whether a label is wanted; without, the second is None.

    Raises:
        UserError: a named field is not there, or none stands out.

    >>> choose_fields("reviews.csv", ["id", "stars", "Review"], None, None, labelled=True)
    ('Review', 'stars')
    """
    for option, field in (("--text-field", text_field), ("--label-field", label_field)):
        if field is not None and field not in names and (labelled or option == "--text-field"):
            raise UserError(f"{path} has no field {field!r}.", f"Choose with {option} one of: {_listed(names)}.")
    label = label_field
    if labelled and label is None:
        label = _well_known([name for name in names if name != text_field], LABELS)
        if label is None and text_field is not None and len(names) == 2:
            label = next(name for name in names if name != text_field)
        if label is None:
            raise UserError(
                f"{path} does not say which of its fields is the label ({_listed(names)}).",
                "Name it with --label-field.",
            )
    text = text_field
    if text is None:
        rest = [name for name in names if name != label and (labelled or name.lower() not in LABELS)]
        text = _well_known(rest, WELL_KNOWN) or (rest[0] if len(rest) == 1 else None)
        if text is None:
            raise UserError(
                f"{path} does not say which of its fields is the text ({_listed(names)}).", "Name it with --text-field."
            )
    return text, label if labelled else None


def _well_known(names: Sequence[str], known: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name.lower()] for name in known if name.lower() in by_lower), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
