"""Where sentences end: by punctuation, and by line breaks."""

from __future__ import annotations

import re

_END = re.compile(
    r"""(?<=[.!?…])["'”’)\]]*\s+(?=["'“‘(\[]*[^\W_a-z])"""  # what follows is a capital, a digit or of a script without
    r"""|(?<=[。！？])"""
)
_ABBREVIATION = re.compile(r"(?:^|[\s(\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|No|Vol|Gen|Col|Capt|Sgt|Rev)\.$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without white space at their ends; line breaks end them too.

    An initial or a common title before a name ends none.

    >>> split_sentences("It was fine. Mr. Lee said: “Go!” He went\\nHome")
    ['It was fine.', 'Mr. Lee said: “Go!”', 'He went', 'Home']
    """
    found = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            end = match.start() + len(match.group().rstrip())
            if _ABBREVIATION.search(line, max(0, match.start() - 8), match.start()):
                continue
            found.append(line[start:end].strip())
            start = match.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def split_lines(text: str) -> list[str]:
    """A sentence a line, as BERT's own data had it.

    >>> split_lines("One. Two.\\n\\nThree.")
    ['One. Two.', 'Three.']
    """
    return [line for line in map(str.strip, text.splitlines()) if line]
