"""The method card's own program, on two ranks."""

from pathlib import Path
from typing import Any

import torch
from comm.test_sampled import on_two
from test_docs import FENCE, ROOT

from overnight.comm.meter import Traffic

PAGE = ROOT / "docs" / "methods" / "sampled_gradients.md"


def run_the_page() -> Any:
    blocks = [match["body"] for match in FENCE.finditer(PAGE.read_text()) if match["language"] == "python"]
    names: dict[str, Any] = {"__name__": "__page__"}
    exec(compile(blocks[0], str(PAGE), "exec"), names)
    return names["main"]()


def test_the_page(tmp_path: Path) -> None:
    (traffic, first), (_, second) = on_two(run_the_page, tmp_path)
    assert isinstance(traffic, Traffic)
    assert traffic.steps == 3
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert first["exchange"]["residual"].keys() == second["exchange"]["residual"].keys()
    assert any("recurrent" in name for name in first["exchange"]["residual"])
