"""How a text is shown to a byte model: the framing of Radford et al. 2017 (arXiv 1704.01444), as their code has it."""

import codecs
import html

_HANDLER = "overnight-framing"


def frame(text: str | bytes) -> bytes:
    """``"\\n " + html.unescape(text).replace("\\n", " ").strip() + " "`` in UTF-8.

    Nothing is refused: bytes that are no UTF-8 stay as they are, those that Python escaped (``surrogateescape``) come
    back, any other lone surrogate becomes its three bytes, and NUL is a byte like the others. An empty text is framed
    too. Framing twice is not framing once where entities are escaped twice.

    Example:
        >>> frame(" Tom &amp; Jerry\\nagain ")
        b'\\n Tom & Jerry again '
        >>> frame(b"caf\\xe9"), frame("")
        (b'\\n caf\\xe9 ', b'\\n  ')
    """
    if not isinstance(text, str):
        text = bytes(text).decode("utf-8", "surrogateescape")
    return to_bytes(f"\n {html.unescape(text).replace(chr(10), ' ').strip()} ")


def to_bytes(text: str | bytes) -> bytes:
    """The text's bytes, UTF-8 for a string; lone surrogates as in ``frame``.

    >>> to_bytes("caf\\u00e9"), to_bytes("\\udcff\\ud800"), to_bytes(b"bytes")
    (b'caf\\xc3\\xa9', b'\\xff\\xed\\xa0\\x80', b'bytes')
    """
    return text.encode("utf-8", _HANDLER) if isinstance(text, str) else bytes(text)


def _surrogate_bytes(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    lone = error.object[error.start : error.end]
    escaped = (
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else c.encode("utf-8", "surrogatepass") for c in lone
    )
    return b"".join(escaped), error.end


codecs.register_error(_HANDLER, _surrogate_bytes)
