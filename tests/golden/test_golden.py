"""The first losses of the recipes are what they were.

A change that is not meant to touch the numbers (a refactor, a faster path) must leave them; one that is meant to says
so, and writes them anew with ``python tests/golden/regenerate.py``. They are compared to 1e-5 relative and not exactly,
because the BLAS sums in another order on another CPU, so the last bits differ.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden.runs import RUNS, STEPS, first_losses, golden_file


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A run sets the process's threads; the tests after it keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RUNS)
def test_first_losses(name: str, tmp_path: Path) -> None:
    if name.startswith("bert"):
        pytest.importorskip("transformers", reason="needs the extra bert")
    golden = json.loads(golden_file(name).read_text())["losses"]
    assert len(golden) == STEPS
    assert first_losses(name, tmp_path) == pytest.approx(golden, rel=1e-5)
