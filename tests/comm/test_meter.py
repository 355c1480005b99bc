"""The meter counts what hooks exchange; the formula of the plan says the same."""

import math
from pathlib import Path
from typing import Any

import pytest
from comm.checks_work import counted, hooks, power_sgd
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


def test_collectives_that_callbacks_issue_are_counted(tmp_path: Path) -> None:
    for found in on_two(power_sgd, tmp_path):
        whole = sum(math.prod(shape) for shape in found["shapes"])
        # those that a rank-1 product of 2 · (40 + 60) numbers or more could not halve are exchanged whole
        small = sum(sum(s) if len(s) > 1 and 2 * sum(s) < math.prod(s) else math.prod(s) for s in found["shapes"])
        assert [traffic.payload_bytes for traffic in found["steps"]] == [4 * whole] * 2 + [4 * small] * 3
        assert found["steps"][-1].calls == {"allreduce_": 3}
        assert found["restored"]
