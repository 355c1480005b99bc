"""For all tests: the signals that a terminal would give."""

import signal


def pytest_configure() -> None:
    """Undo what a shell does to jobs in the background: it starts them with SIGINT ignored, which children inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
