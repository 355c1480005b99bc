"""The method cards' own programs, on two ranks."""

from pathlib import Path
from typing import Any

import torch
from comm.test_sampled import on_two
from test_docs import FENCE, ROOT

from overnight.comm.meter import Traffic

METHODS = ROOT / "docs" / "methods"


def run_the_page(name: str) -> Any:
    page = METHODS / name
    blocks = [match["body"] for match in FENCE.finditer(page.read_text()) if match["language"] == "python"]
    names: dict[str, Any] = {"__name__": "__page__"}
    exec(compile(blocks[0], str(page), "exec"), names)
    return names["main"]()


def test_sampled_gradients(tmp_path: Path) -> None:
    (traffic, first), (_, second) = on_two(run_the_page, tmp_path, "sampled_gradients.md")
    assert isinstance(traffic, Traffic)
    assert traffic.steps == 3
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert first["exchange"]["residual"].keys() == second["exchange"]["residual"].keys()
    assert any("recurrent" in name for name in first["exchange"]["residual"])


def test_local_steps(tmp_path: Path) -> None:
    (traffic, first), (_, second) = on_two(run_the_page, tmp_path, "local_steps.md")
    assert isinstance(traffic, Traffic)
    assert (traffic.steps, traffic.calls) == (6, {"allreduce_": 2})
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert first["local"]["momentum_buffer"].keys() == first["model"].keys()


def test_asynchronous() -> None:
    assert run_the_page("asynchronous.md") == (10, {0: 10})
