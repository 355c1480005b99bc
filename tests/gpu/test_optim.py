"""LAMB and LARS on a CUDA device: `python -m pytest tests/gpu`."""

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.optim import LAMB, LARS, fused_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
DEVICE = "cuda"
SHAPES = [(7,), (63, 5), (101, 403), (768, 3072), (16, 24), (1,), (3, 4, 5)]
PATHS: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "LAMB": (LAMB, {"lr": 0.1}),
    "nvlamb": (LAMB, {"lr": 0.1, "variant": "nvlamb"}),
    "deepspeed": (LAMB, {"lr": 1.0, "variant": "deepspeed"}),
    "LAMB unadapted": (LAMB, {"lr": 0.1, "adapt": False}),
    "LARS": (LARS, {"lr": 0.5, "trust_coefficient": 1.0}),
    "LARS scaled, Nesterov": (
        LARS,
        {"lr": 0.5, "trust_coefficient": 1.0, "momentum_placement": "scaled", "nesterov": True},
    ),
    "larc": (LARS, {"lr": 0.5, "trust_coefficient": 1.0, "variant": "larc"}),
}
over_cases = pytest.mark.parametrize("case", CASES)
over_paths = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name == "fused" and importlib.util.find_spec("triton") is None,
                reason="triton is not installed (the extra gpu)",
            ),
        )
        for name in PATHS
    ],
)


class Trial:
    """An optimizer, and gradients that are the same for all trials."""

    def __init__(self, case: str, device: str = DEVICE, dtype: torch.dtype = torch.float32, **settings: Any) -> None:
        kind, own = CASES[case]
        self.draw = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=self.draw) / 4 for shape in SHAPES]
        self.parameters = [torch.nn.Parameter(value.to(device, dtype)) for value in values]
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.optimizer = kind(self.parameters, **{"weight_decay": 0.1, **own, **settings})

    def gradients(self) -> None:
        for p in self.parameters:
            assert p.grad is not None
            p.grad.copy_(torch.randn(p.shape, generator=self.draw))

    def weights(self) -> list[Tensor]:
        state = self.optimizer.state
        return [state[p].get("master", p).detach().double().cpu() for p in self.parameters]

    def steps(self, count: int) -> list[list[tuple[Tensor, Tensor]]]:
        """Δw and w of every step."""
        found = []
        for _ in range(count):
            self.gradients()
            before = self.weights()
            self.optimizer.step()
            found.append([(new - old, new) for new, old in zip(self.weights(), before, strict=True)])
        return found


def alike(ours: list[list[tuple[Tensor, Tensor]]], theirs: list[list[tuple[Tensor, Tensor]]]) -> None:
    for (mine, _), (its, w) in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert (mine - its).norm() <= 1e-6 * its.norm() + 2**-23 * w.norm()  # and the rounding of w


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every bucket that the kernels update."""
    found: list[int] = []
    passes = fused_cuda._passes

    def counted(*arguments: Any, **more: Any) -> None:
        found.append(1)
        passes(*arguments, **more)

    monkeypatch.setattr(fused_cuda, "_passes", counted)
    return found


@over_cases
@over_paths
@pytest.mark.parametrize("capturable", [False, True])
def test_every_path_on_the_device_makes_the_steps_of_the_cpu(
    case: str, path: str, capturable: bool, launches: list[int]
) -> None:
    expected = Trial(case, "cpu", foreach=False, fused=False).steps(3)
    alike(Trial(case, capturable=capturable, **PATHS[path]).steps(3), expected)
    assert len(launches) == (3 if path == "fused" else 0)  # all layers at once


@over_cases
@over_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_of_low_precision(case: str, path: str, dtype: torch.dtype) -> None:
    expected = Trial(case, "cpu", dtype, foreach=False, fused=False, master_weights=True).steps(3)
    ours = Trial(case, DEVICE, dtype, master_weights=True, **PATHS[path])
    alike(ours.steps(3), expected)
    for p in ours.parameters:
        assert torch.equal(p, ours.optimizer.state[p]["master"].to(dtype))


@over_cases
def test_low_precision_without_masters_is_rounded_once(case: str) -> None:
    ours, theirs = (Trial(case, DEVICE, torch.bfloat16, **PATHS[path]) for path in ("fused", "foreach"))
    ours.steps(1)
    theirs.steps(1)
    for mine, its in zip(ours.weights(), theirs.weights(), strict=True):
        other = mine != its
        assert other.float().mean() <= 1e-3 or other.sum() <= 1
        assert ((mine - its).abs() <= its.abs() * 2**-7)[other].all()


@pytest.fixture
def no_sync() -> Iterator[None]:
    """Whatever waits for the device is an error inside ``step``."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@over_cases
@over_paths
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_does_not_wait_for_the_device(
    case: str, path: str, capturable: bool, dtype: torch.dtype, no_sync: None
) -> None:
    settings: dict[str, Any] = {"capturable": capturable, "master_weights": dtype != torch.float32, **PATHS[path]}
    if capturable:
        settings["lr"] = torch.tensor(CASES[case][1]["lr"], device=DEVICE)
    trial = Trial(case, DEVICE, dtype, **settings)
    trial.steps(2)
    trial.gradients()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    trial.optimizer.step()
    torch.cuda.set_sync_debug_mode("default")


@over_cases
@over_paths
def test_a_captured_step_is_an_eager_one(case: str, path: str) -> None:
    """The rate is changed between replays, and the bias correction goes on."""
    rate = torch.tensor(CASES[case][1]["lr"], device=DEVICE)
    expected = Trial(case, lr=rate.clone(), capturable=True, **PATHS[path])
    ours = Trial(case, lr=rate.clone(), capturable=True, **PATHS[path])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ours.steps(3)
    torch.cuda.current_stream().wait_stream(stream)
    expected.steps(3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.optimizer.step()
    # memory that the graph needs must not have been given back
    waste = [torch.full((1 << 20,), -1, dtype=torch.int64).pin_memory() for _ in range(4)]
    for turn in range(1, 5):
        for trial in (ours, expected):
            trial.optimizer.param_groups[0]["lr"].copy_(rate / turn)
            trial.gradients()
        graph.replay()
        expected.optimizer.step()
        for mine, its in zip(ours.weights(), expected.weights(), strict=True):
            assert (mine - its).norm() <= 1e-6 * its.norm()
    for p in ours.parameters:
        assert ours.optimizer.state[p]["step"].item() == 7
    del waste


@over_paths
def test_a_state_that_was_loaded_does_not_wait_either(path: str, no_sync: None) -> None:
    first, second = Trial("LAMB", **PATHS[path]), Trial("LAMB", **PATHS[path])
    first.steps(2)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert second.optimizer.state[second.parameters[0]]["step"].device.type == "cpu"
    second.steps(1)
    second.gradients()
    torch.cuda.set_sync_debug_mode("error")
    second.optimizer.step()
    torch.cuda.set_sync_debug_mode("default")


@over_paths
@pytest.mark.parametrize("case", ["LAMB", "LARS"])
def test_more_elements_than_32_bits_count(case: str, path: str) -> None:
    elements = 2**31 + 2**20
    if torch.cuda.mem_get_info()[0] < 10 * 4 * elements:
        pytest.skip("this device has less than 86 GB of free memory")
    kind, settings = CASES[case]
    w = torch.nn.Parameter(torch.full((elements,), 0.5, device=DEVICE))
    w.grad = torch.full((elements,), 0.25, device=DEVICE)
    kind([w], **settings, **PATHS[path]).step()
    # ‖Δw‖ = lr ‖w‖, and all elements are equal
    assert w.min().item() == w.max().item() == pytest.approx(0.5 - settings["lr"] * 0.5, rel=1e-6)


def test_the_scaler_skips_a_step() -> None:
    trial = Trial("LAMB", fused=True)
    scaler = torch.amp.GradScaler(DEVICE)
    before = trial.weights()
    trial.gradients()
    scaler.scale(torch.ones((), device=DEVICE))
    trial.parameters[0].grad.fill_(float("inf"))  # type: ignore[union-attr]
    scaler.step(trial.optimizer)
    scaler.update()
    assert all(torch.equal(new, old) for new, old in zip(trial.weights(), before, strict=True))
    assert not trial.optimizer.state
