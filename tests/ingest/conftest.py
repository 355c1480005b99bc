"""Pieces small enough that a few kilobytes make many of them."""

import pytest

from overnight.data.ingest import preparation


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "PIECE_BYTES", 1000)
