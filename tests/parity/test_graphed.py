"""Which loops are captured, by a capture that only takes note; tests/gpu has what needs a device."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from overnight.nn.fast import graphed
from overnight.nn.fast.graphed import SWITCH, LoopGraphs, run_loop, why_no_graphs

Loop = Callable[[], None]


class Capture:
    """Replays by running the loop that was captured, as a graph would: on the tensors of that time."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, loop: Loop) -> Loop:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            loop()

        return replay


def add_one(graphs: LoopGraphs, x: Tensor, name: str = "add one", stream: int = 0) -> None:
    before = x.clone()
    graphs.run(name, lambda: x.add_(1), [x, None], stream)
    assert torch.equal(x, before + 1), "run exactly once, whichever way, on the tensors of this call"


def test_captured_the_second_time_and_replayed_from_then_on() -> None:
    capture = Capture()
    graphs, x = LoopGraphs(capture), torch.zeros(3)
    counts = []
    for _ in range(4):
        add_one(graphs, x)
        counts.append((capture.captured, capture.replayed))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_what_tells_calls_apart() -> None:
    capture = Capture()
    graphs, memory = LoopGraphs(capture), torch.zeros(64)
    add_one(graphs, memory[:4].view(2, 2))
    for other in (
        memory[4:8].view(2, 2),
        memory[:4],
        memory[:4].view(2, 2).t(),
        memory[:4].view(torch.int32).view(2, 2),
        memory[:1].expand(1, 1),
    ):
        add_one(graphs, other)
    add_one(graphs, memory[:4].view(2, 2), name="another loop")
    add_one(graphs, memory[:4].view(2, 2), stream=7)
    graphs.run("add one", lambda: None, [memory[:4].view(2, 2), memory])
    assert capture.captured == 0
    add_one(graphs, memory[:4].view(2, 2))
    assert capture.captured == 1


def test_shapes_that_vary_are_never_captured() -> None:
    capture = Capture()
    graphs, memory = LoopGraphs(capture, limit=2), torch.zeros(1000)
    for length in range(1, 1000):
        add_one(graphs, memory[:length])
    assert capture.captured == 0
    assert len(graphs._seen) == len(graphs._misses) == 16, "what is remembered is bounded"


def test_the_graph_unused_for_longest_goes_first() -> None:
    capture = Capture()
    graphs, memory = LoopGraphs(capture, limit=2), torch.zeros(3, 4)
    for row in (0, 0, 1, 1, 0, 2, 2):
        add_one(graphs, memory[row])
    assert (len(graphs), capture.captured) == (2, 3)
    add_one(graphs, memory[0])
    assert capture.captured == 3, "row 0 was used after row 1 and is kept"
    add_one(graphs, memory[1])
    assert capture.captured == 4


def test_a_loop_that_never_meets_its_memory_again_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    capture = Capture()
    graphs, memory = LoopGraphs(capture, patience=5), torch.zeros(20, 4)
    for row in (*range(10), *range(10), 3, 3):
        add_one(graphs, memory[row])
    assert capture.captured == 0
    assert [record.getMessage() for record in caplog.records] == [
        "The recurrence runs without CUDA graphs: 5 calls in a row of add one did not come back to memory of a graph."
    ]


def test_a_hit_restores_patience() -> None:
    capture = Capture()
    graphs, memory = LoopGraphs(capture, patience=3), torch.zeros(20, 4)
    for row in (0, 0, 1, 2, 0, 3, 4, 0, 5, 6, 0, 6):
        add_one(graphs, memory[row])
    assert capture.captured == 2


def test_a_failed_capture_is_said_once_and_the_loop_runs(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def refuse(loop: Loop) -> Loop:
        tries.append(loop)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs, memory = LoopGraphs(refuse), torch.zeros(2, 4)
    for row in (0, 0, 0, 1, 1, 1):
        add_one(graphs, memory[row])
    assert len(tries) == 1
    caplog.set_level(logging.WARNING)
    assert [record.getMessage() for record in caplog.records] == [
        "The recurrence runs without CUDA graphs: "
        "capturing add one failed: operation not permitted when stream is capturing."
    ]


def test_an_error_of_the_loop_is_the_callers() -> None:
    graphs = LoopGraphs(Capture())

    def wrong() -> None:
        raise ValueError("of the loop")

    for _ in range(3):
        with pytest.raises(ValueError, match="of the loop"):
            graphs.run("wrong", wrong, [torch.zeros(1)])


def test_where_graphs_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "_graphs", None)
    x = torch.zeros(2)
    for _ in range(3):
        run_loop("add one", lambda: x.add_(1), [None, x])
    assert x.tolist() == [3, 3]
    assert "CUDA device" in why_no_graphs(torch.device("cpu"))
    assert why_no_graphs(torch.device("cuda")) == ""
    monkeypatch.setenv(SWITCH, "0")
    assert why_no_graphs(torch.device("cuda")) == f"{SWITCH}=0"
