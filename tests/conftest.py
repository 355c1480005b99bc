"""For all tests: one thread, the signals that a terminal would give, and a small corpus."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from train.launching import make_corpus


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only wait for each other on more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus with a held-out split."""
    return make_corpus(tmp_path_factory.mktemp("corpora") / "corpus")


def pytest_configure() -> None:
    """Undo what a shell does to jobs in the background: it starts them with SIGINT ignored, which children inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
