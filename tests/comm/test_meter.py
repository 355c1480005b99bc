"""The meter counts what hooks exchange; the formula of the plan says the same."""

from pathlib import Path
from typing import Any

import pytest
from comm.checks_work import counted, hooks
from comm.test_sampled import on_two

from overnight.comm import ring_bytes


@pytest.mark.parametrize(("dtype", "itemsize"), [(None, 4), ("bf16", 2)])
def test_bytes_of_a_step_are_those_of_the_formula(dtype: Any, itemsize: int, tmp_path: Path) -> None:
    for found in on_two(counted, tmp_path, dtype):
        assert found["start"].payload_bytes == 0
        for traffic, elements in found["steps"]:
            formula = ring_bytes(elements, 2, itemsize)
            assert traffic.steps == 1
            # beside gradients, the words' ids are exchanged
            assert formula < traffic.wire_bytes < 1.02 * formula
            assert 0.0 <= traffic.waiting_seconds <= traffic.busy_seconds


def test_any_hook_can_be_counted(tmp_path: Path) -> None:
    for found in on_two(hooks, tmp_path):
        plain, ours = found["torch"], found["ours"]
        assert plain.steps == ours.steps == 2
        assert plain.payload_bytes == 2 * 4 * found["elements"]
        assert plain.wire_bytes == plain.payload_bytes
        assert ours.payload_bytes == plain.payload_bytes - 2 * 4 * found["less"]
        assert set(plain.calls) == {"allreduce_"}
        assert 0.0 < plain.busy_seconds < 60.0
