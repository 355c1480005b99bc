"""What the evaluation tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles.corpus import write_corpus

from overnight.data.corpus import ByteStream, Corpus
from overnight.models.byte_lm import ByteLM


@pytest.fixture
def make_stream(tmp_path: Path) -> Callable[..., ByteStream]:
    """(documents of shard 0, documents of shard 1, …) → the stream of a corpus on disk."""

    def make(*shards: list[bytes]) -> ByteStream:
        return Corpus(write_corpus(tmp_path / "corpus", valid=list(shards))).split("valid")

    return make


@pytest.fixture
def opinionated() -> ByteLM:
    """A small model whose state matters: weights several times their starting size."""
    torch.manual_seed(0)
    model = ByteLM(hidden_size=24, embedding_size=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
        model.output.weight.mul_(4.0)
    return model
