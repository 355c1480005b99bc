"""A small run, a server on it in this process, and one over a socket."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from train.launching import start, tiny

from overnight.evaluate.load import ByteModel, load_byte_model
from overnight.serve.app import create_app
from overnight.serve.limits import Limits
from overnight.serve.service import Service
from overnight.train.launch import train


@pytest.fixture(scope="session")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with two layers."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    train(tiny(corpus, steps=20, model__layers=2, optimizer__lr=0.02), folder)
    return folder


@pytest.fixture(scope="session")
def model(run: Path) -> ByteModel:
    """Its model."""
    return load_byte_model(run, device="cpu")


@pytest.fixture
def serving(model: ByteModel, run: Path) -> Iterator[Callable[..., TestClient]]:
    """Limits by name → a client of a server in this process."""
    opened: list[TestClient] = []

    def make(folder: Path = run, **limits: float) -> TestClient:
        app = create_app(Service(model, folder, Limits(**limits)))  # type: ignore[arg-type]
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        opened.append(client.__enter__())
        return opened[-1]

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving: Callable[..., TestClient]) -> TestClient:
    """A client of a server with the usual limits."""
    return serving()


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where ``overnight serve`` listens; ended by a signal, which must end it well."""
    with_server = start_server(run, tmp_path_factory.mktemp("logs"))
    yield next(with_server)
    for _ in with_server:
        pass


def start_server(run: Path, logs: Path, *words: str) -> Iterator[str]:
    """Yields the address of a server in a process of its own, and then ends it."""
    process = start(["serve", str(run), "--port", "0", "--device", "cpu", *words], logs)
    process.until(lambda: "http://" in process.logs[0].read_text())
    yield process.logs[0].read_text().partition("http://")[2].partition("/")[0].join(("http://", ""))
    process.signal(signal.SIGTERM)
    begun = time.monotonic()
    codes = process.wait(30)
    assert codes in ([0], [-signal.SIGTERM]), process.output()
    assert time.monotonic() - begun < 20
    assert "Traceback" not in process.output()
