"""What the recipes' tests share."""

from pathlib import Path

import pytest
from oracles.corpus import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus with a held-out split."""
    documents = [bytes(97 + (index * place) % 26 for place in range(200)) + b"\n" for index in range(1, 40)]
    return write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", train=[documents], valid=[documents[:10]])
