"""Exports that run without the package: torch.export and ONNX, each against the original."""

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchange.making import model_of, snapshot, write_run
from torch import Tensor

from overnight.errors import UserError
from overnight.exchange import check, export_model

SETTINGS: dict[str, Any] = {"hidden_size": 12, "embedding_size": 5, "layers": 2}
SHAPES = [(1, 1), (3, 1), (1, 4), (40, 2)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("programs") / "run", **SETTINGS)


@pytest.fixture(scope="module")
def programs(run: Path) -> Path:
    """The run's model, exported with torch.export."""
    export_model(run, "torch", run.parent / "torch")
    return run.parent / "torch"


@pytest.fixture(scope="module")
def graphs(run: Path) -> Path:
    """The run's model in ONNX."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra export")
    export_model(run, "onnx", run.parent / "onnx")
    return run.parent / "onnx"


def inputs(time: int, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(time + lanes)
    ids_TB = torch.randint(256, (time, lanes), generator=draws)
    h, c = (torch.randn(lanes, 2, 12, generator=draws) for _ in range(2))
    return ids_TB, h.tanh(), c


def originals(ids_TB: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
    logits, carry = model_of(**SETTINGS)(ids_TB, {"h": h, "c": c})
    return [logits, carry["h"], carry["c"]]


def agree(got: Any, expected: list[Tensor]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("time", "lanes"), SHAPES)
def test_the_window_program(programs: Path, time: int, lanes: int) -> None:
    window = torch.export.load(programs / "window.pt2").module()
    given = inputs(time, lanes)
    agree(window(*given), originals(*given))


@pytest.mark.parametrize("lanes", [1, 2, 9])
def test_the_step_program(programs: Path, lanes: int) -> None:
    step = torch.export.load(programs / "step.pt2").module()
    ids_TB, h, c = inputs(1, lanes)
    logits_BV, *state = step(ids_TB[0], h, c)
    agree([logits_BV[None], *state], originals(ids_TB, h, c))


def session(file: Path) -> Callable[..., Any]:
    import onnxruntime

    loaded = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [item.name for item in loaded.get_inputs()]
    assert names == ["ids", "h", "c"]
    assert [item.name for item in loaded.get_outputs()] == ["logits", "h_next", "c_next"]
    return lambda *given: loaded.run(None, {n: t.numpy() for n, t in zip(names, given, strict=True)})


@pytest.mark.parametrize(("time", "lanes"), SHAPES)
def test_the_window_graph(graphs: Path, time: int, lanes: int) -> None:
    given = inputs(time, lanes)
    agree(session(graphs / "window.onnx")(*given), originals(*given))


def test_the_step_graph(graphs: Path) -> None:
    ids_TB, h, c = inputs(1, 3)
    logits_BV, *state = session(graphs / "step.onnx")(ids_TB[0], h, c)
    agree([logits_BV[None], *state], originals(ids_TB, h, c))


def test_graphs_are_valid_and_name_their_dimensions(graphs: Path) -> None:
    import onnx

    for name, expected in (("step.onnx", ["batch"]), ("window.onnx", ["time", "batch"])):
        graph = onnx.load(graphs / name)
        onnx.checker.check_model(graph, full_check=True)
        found = {
            item.name: [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
            for item in graph.graph.input
        }
        assert found == {"ids": expected, "h": ["batch", 2, 12], "c": ["batch", 2, 12]}


@pytest.mark.parametrize("kind", ["programs", "graphs"])
def test_what_was_found_is_written_down(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    ending = "pt2" if kind == "programs" else "onnx"
    described = json.loads((folder / "export.json").read_text())
    assert set(described["files"]) == {f"step.{ending}", f"window.{ending}"}
    assert described["step"] == 7
    for name, file in described["files"].items():
        assert 0 <= file["largest_difference"] < 1e-5
        assert file["inputs"]["ids"] == ["int64", ["time", "batch"] if name.startswith("window") else ["batch"]]
    assert snapshot(folder) == {"export.json", f"step.{ending}", f"window.{ending}"}


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_an_export_that_computes_something_else_is_not_left(
    to: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra export")
    from overnight.exchange import program

    right = program.cell

    def wrong(z_BG: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = z_BG.chunk(4, dim=-1)
        return right(torch.cat([f, i, g, o], dim=-1), c_BH)

    monkeypatch.setattr(program, "cell", wrong)
    before = snapshot(run.parent)
    with pytest.raises(UserError, match=r"step\.\w+ differs from the original by up to .*; nothing was written"):
        export_model(run, to, run.parent / "wrong")
    assert snapshot(run.parent) == before


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.1])
def test_the_check_sees_a_single_number(value: float) -> None:
    model = model_of(**SETTINGS)

    def spoiled(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, h, c = check.of_model(model)(*given)
        c = c.clone()
        c[-1, -1, -1] += value
        return logits, h, c

    assert check.accept("x", check.difference(model, check.of_model(model)), 0.0) == 0.0
    with pytest.raises(UserError, match="x differs"):
        check.accept("x", check.difference(model, spoiled))


def test_a_shape_that_differs_is_a_difference() -> None:
    model = model_of(**SETTINGS)
    found = check.difference(model, lambda ids, h, c: (torch.zeros(1), h, c))
    with pytest.raises(UserError, match="differs from the original by up to inf"):
        check.accept("x", found)


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(absent: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == absent else type(sys)(name))  # type: ignore[arg-type]
    assert real is builtins.__import__
    with pytest.raises(UserError, match=rf"ONNX needs {absent}\. Install it with: pip install 'overnight\[export\]'"):
        export_model(run, "onnx", run.parent / "none")
    assert not (run.parent / "none").exists()


def test_a_torch_that_cannot_trace_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("scan is not known\nand more")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(UserError, match=r"cannot export the model \(RuntimeError; --debug") as caught:
        export_model(run, "torch", run.parent / "none")
    assert "\n" not in str(caught.value)
    assert not (run.parent / "none").exists()
