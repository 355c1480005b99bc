"""LAMB and LARS on 2 and on 4 ranks take the steps of one process: FSDP2, tensor parallel, ZeRO-1, DDP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.sharded_work import CUTS, SHAPES, Case, compare, in_group
from distributed.trained_work import Weights, alone, everything, model, placed
from torch.distributed.tensor import Replicate, Shard
from train.on_ranks import on_ranks

from overnight.optim.lamb import VARIANTS as LAMBS
from overnight.optim.lars import VARIANTS as LARSES

PATHS: dict[str, dict[str, Any]] = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
LARS = {"lr": 2.0, "trust_coefficient": 0.1}
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "LAMB": ("LAMB", {}),
    "LAMB nvlamb": ("LAMB", {"variant": "nvlamb"}),
    "LARS": ("LARS", {"trust_coefficient": 0.1, "nesterov": True}),
}
PLACEMENTS = ("inside", "torch", "scaled")


def cases(ranks: int) -> dict[str, Case]:
    """All variants on the paths that differ by it; the loop only on two ranks, for the time it takes."""
    found = {}
    columns: dict[str, Any] = {"placements": (Shard(1),), "mesh": (ranks,)}
    for path, how in PATHS.items():
        if path == "loop" and ranks > 2:
            continue
        found[f"LAMB unadapted {path}"] = Case("LAMB", how, unadapted=True)
        found[f"LAMB unadapted nvlamb {path}"] = Case("LAMB", {"variant": "nvlamb", **how}, unadapted=True)
        found[f"LARS unadapted {path}"] = Case("LARS", {**LARS, **how}, unadapted=True)
        found[f"LAMB frozen, idle {path}"] = Case("LAMB", how, frozen=(1,), idle=(3,))
        found[f"LARS frozen, idle {path}"] = Case("LARS", {**LARS, **how}, frozen=(1,), idle=(3,))
        found[f"LAMB columns {path}"] = Case("LAMB", how, **columns)
        found[f"LARS columns {path}"] = Case("LARS", {**LARS, **how}, **columns)
        if path == "fused":  # the default where it can
            continue
        for variant in LAMBS:
            lr = 1.0 if variant == "deepspeed" else 0.1  # of its first rates a third is left
            settings = {"variant": variant, "lr": lr, **how}
            found[f"LAMB {variant} {path}"] = Case("LAMB", settings)
            for blocks, shapes in CUTS.items():
                found[f"LAMB {variant} {blocks} blocks {path}"] = Case("LAMB", {**settings, "blocks": blocks}, shapes)
        for variant in LARSES:
            found[f"LARS {variant} {path}"] = Case("LARS", {"variant": variant, **LARS, **how})
        for placement in PLACEMENTS:
            settings = {"momentum_placement": placement, "nesterov": placement == "scaled", **LARS, **how}
            found[f"LARS {placement} {path}"] = Case("LARS", settings)
            for blocks, shapes in CUTS.items():
                found[f"LARS {placement} {blocks} blocks {path}"] = Case("LARS", {**settings, "blocks": blocks}, shapes)
    found["LAMB blocks, columns"] = Case("LAMB", {"blocks": 5}, CUTS[5], (Shard(1),), (ranks,))
    found["LAMB double"] = Case("LAMB", dtype=torch.float64)
    found["LAMB bfloat16 with masters"] = Case("LAMB", {"master_weights": True}, dtype=torch.bfloat16)
    if ranks == 4:
        for name, placements in {"rows and columns": (Shard(0), Shard(1)), "copies": (Replicate(), Shard(0))}.items():
            found[f"LAMB {name}"] = Case("LAMB", {"variant": "nvlamb"}, SHAPES, placements, (2, 2))
            found[f"LARS {name}"] = Case("LARS", LARS, SHAPES, placements, (2, 2))
    return found


Found = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def given(folder: Path, ranks: int, work: Callable[..., Any], *arguments: Any) -> Found:
    """What each rank found."""
    found = on_ranks(in_group, folder, ranks, folder / "store", work, *arguments)
    errors = [result for result in found if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return found


def furthest(found: Weights, expected: Weights) -> float:
    assert found.keys() == expected.keys()
    return max(((found[name] - w).norm() / w.norm()).item() for name, w in expected.items())


def test_trajectories_on_shards_are_those_of_one_process(ranks: int, tmp_path: Path) -> None:
    """Weights and updates of every step, relative to the norm of the whole layer's."""
    found = given(tmp_path, ranks, compare, cases(ranks))
    for name in cases(ranks):
        worst = max(max(result[name]) for result in found)
        assert worst <= 1e-6, f"{name}: {worst}"


@pytest.fixture(scope="module")
def trained(ranks: int, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Training through backward in float64, where another order of sums is all that is left."""
    return given(tmp_path_factory.mktemp("trained"), ranks, everything, TRAINED)


@pytest.mark.parametrize("way", ["fsdp", "accumulated", "zero"])
@pytest.mark.parametrize("case", TRAINED)
def test_training_on_ranks_is_that_of_one_process(trained: Found, case: str, way: str) -> None:
    name, settings = TRAINED[case]
    expected = alone(name, **settings)
    # clip_grad_norm_ divides by a norm that is larger by 1e-6
    tolerance = 1e-5 if (case, way) == ("LAMB nvlamb", "zero") else 1e-12
    for result in trained:
        assert furthest(result[case][way], expected) <= tolerance
    start = dict(model().named_parameters())
    moved = {key for key, w in expected.items() if not torch.equal(w, start[key])}
    assert moved == {key for key, p in start.items() if p.requires_grad}


@pytest.mark.parametrize("kind", ["sharded", "whole", "offloaded", "flat"])
@pytest.mark.parametrize("case", TRAINED)
def test_resumed_to_the_bit(trained: Found, case: str, kind: str) -> None:
    """Through torch.distributed.checkpoint.state_dict."""
    for result in trained:
        unbroken, resumed = result[case][f"resumed {kind}"]
        assert furthest(resumed, unbroken) == 0


def test_placements_of_tensor_parallel(ranks: int, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {"LAMB": {"lr": 0.1}, "LARS": {"lr": 0.1, "trust_coefficient": 1.0}}
    wanted = {f"{name} {path}": (name, settings[name] | PATHS[path]) for name in settings for path in PATHS}
    for result in given(tmp_path, ranks, placed, wanted):
        for found in result.values():
            for way in ("another order on one rank", "pending gradient"):
                assert furthest({"w": found[way]}, {"w": found["one process"]}) <= 1e-12
            assert "pending (partial) sum over ranks" in found["pending parameter"]
            assert "set_optimizer_state_dict" in found["state of whole tensors"]
