"""From the text of a record to the bytes of a document."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from overnight.data.ingest.settings import PrepareSettings

# Only what looks like a tag, so that "a < b" and "<3" stay; no part of the pattern can pass over another "<", which
# keeps the time linear.
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<![^<>]*>")


def strip_tags(text: str) -> str:
    """Tags, comments and declarations of HTML become one space each.

    >>> strip_tags("Good.<br /><br />I <3 it, 1 < 2 > 0")
    'Good.  I <3 it, 1 < 2 > 0'
    """
    return _TAG.sub(" ", text)


def collapse_whitespace(text: str) -> str:
    """Runs of white space (as Unicode has it) become one space, none at either end.

    >>> collapse_whitespace("  a\\t\\u00a0b\\n")
    'a b'
    """
    return " ".join(text.split())


def frame_reviews(text: str) -> str:
    """The framing of Radford et al. 2017; the empty text stays empty.

    >>> frame_reviews(" Tom &amp; Jerry\\nagain ")
    '\\n Tom & Jerry again '
    """
    text = html.unescape(text).replace("\n", " ").strip()
    return f"\n {text} " if text else ""


def document_maker(settings: PrepareSettings) -> Callable[[bytes], bytes]:
    """The function from a record's text to a document's bytes, empty where nothing is left.

    Bytes that are not UTF-8 pass through every step unchanged.

    Args:
        settings: cleaning and framing.

    >>> document_maker(PrepareSettings(strip_tags=True))(b"<b>caf\\xe9</b>")
    b' caf\\xe9 \\n'
    """
    steps: list[Callable[[str], str]] = []
    if settings.strip_tags:
        steps.append(strip_tags)
    if settings.unescape_html:
        steps.append(html.unescape)
    if settings.collapse_whitespace:
        steps.append(collapse_whitespace)
    if settings.framing == "reviews":
        steps.append(frame_reviews)
    end = b"\n" if settings.framing == "newline" else b""

    def plain(text: bytes) -> bytes:
        return text + end if text else b""

    def cleaned(text: bytes) -> bytes:
        value = text.decode("utf-8", "surrogateescape")
        for step in steps:
            value = step(value)
        out = value.encode("utf-8", "surrogateescape")
        return out + end if out else b""

    return cleaned if steps else plain
