"""The one exception for mistakes that a user can mend; the command line prints it without a traceback."""


class UserError(Exception):
    """Something in the input, the settings or the machine that the user can put right.

    Args:
        problem: one sentence that names what is wrong (file, line, record, setting) and ends with a full stop.
        remedy: one sentence that says what to do about it, or empty.

    >>> str(UserError("corpus.txt is empty.", "Give a file with at least one document."))
    'corpus.txt is empty. Give a file with at least one document.'
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class ElsewhereError(UserError):
    """A UserError of another rank, raised on this one too so that all stop together; that rank prints it."""
