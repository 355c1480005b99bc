"""Text that a model wrote, fit to be shown on a terminal."""

_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """The text with a replacement character for each control character but line feed and tab: models write them, and
    terminals obey them.

    >>> without_controls("a\\x1b[2J\\tb") == "a\\ufffd[2J\\tb"
    True
    """
    return text.translate(_CONTROLS)
