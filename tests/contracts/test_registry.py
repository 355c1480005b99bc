"""The conformance suite over everything in overnight.optim, its named variants and its paths."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.wrapped import BoostedLAMB, BoostedLARS
from torch.optim import Optimizer

from overnight import optim
from overnight.doctor.optimizer import CHECKS, Conformance, Subject, conformance
from overnight.doctor.optimizer.host_sync import HOST_SYNC
from overnight.doctor.optimizer.length import LENGTH
from overnight.doctor.optimizer.subject import Family
from overnight.optim import lamb, lars
from overnight.optim.layerwise import Layerwise

CLASSES = {name: cls for name, cls in vars(optim).items() if name in optim.__all__ and isinstance(cls, type)}
VARIANTS = {"LAMB": lamb.VARIANTS, "LARS": lars.VARIANTS}
Settings = dict[str, Any]

# name → what it breaks as designed, and the words in which the table says so
DESIGNED: dict[tuple[str, str], dict[str, str]] = {
    # a ratio of at most 1: short steps where ‖w‖ > ‖u‖
    ("LAMB", "lambc"): {
        "length": "off at ‖w‖ = 400 by ×0.16",
        "no decay": "off at ‖w‖ = 400 by ×0.16",
        "weight scale": "1.9e-01",
        "large tensor": "×0.15",
    },
    # two directions of length lr·β₁‖w‖ and lr·(1 - β₁)‖w‖, which are one only in the first step
    ("LAMB", "lans"): {
        "length": "by ×1, ×0.96",
        "no decay": "by ×1, ×0.96",
        "rate drop": "relative error 4.6e-02",
    },
    # √(1 - β₂ᵗ)/(1 - β₁ᵗ) on the rate, after the ratio, which is at least 0.01 and at most 10
    ("LAMB", "deepspeed"): {
        "length": "at ‖w‖ = 4.5 by ×0.3162, ×0.1532, ×0.3086, ×0.7952",
        "no decay": "at ‖w‖ = 4.5 by ×0.3162, ×0.1532, ×0.3086, ×0.7952",
        "rate drop": "relative error 8.4e-01",
        "large tensor": "×0.3162",
        "blocks": "×0.3162",
    },
    # local rate min(lr, ρ), and the checks take lr = 100
    ("LARS", "larc"): {
        "length": "by ×0.01, ×0.01, ×0.01, ×0.01",
        "no decay": "by ×0.01, ×0.01, ×0.01, ×0.01",
        "rate drop": "none of the three",
        "large tensor": "×0.01",
        "blocks": "×0.01",
    },
    # ‖g + λw‖ in the denominator, of two vectors that are nearly orthogonal
    ("LARS", "optax"): {"length": "×1.34", "blocks": "×1.10"},
    ("LARS", "vissl"): {"length": "×1.34", "blocks": "×1.10"},
}
OTHERS: list[tuple[str, Settings]] = [
    ("LAMB", {"bias_correction": False}),
    ("LAMB", {"foreach": True}),
    ("LAMB", {"fused": False}),
    ("LAMB", {"capturable": True}),
    ("LARS", {"momentum_placement": "torch"}),
    ("LARS", {"momentum_placement": "scaled"}),
    ("LARS", {"nesterov": True}),
    ("LARS", {"foreach": True}),
    ("LARS", {"fused": False}),
    ("LARS", {"capturable": True}),
]


def examine(name: str, settings: Settings) -> Conformance:
    family = "lamb" if name == "LAMB" else "lars"
    return conformance(Subject(name, CLASSES[name], family, settings))


def failures(found: Conformance) -> dict[str, str]:
    return {finding.name: finding.measured for finding in found.findings if finding.status == "fail"}


def test_every_layerwise_optimizer_has_variants_here() -> None:
    assert {name for name, cls in CLASSES.items() if issubclass(cls, Layerwise)} == set(VARIANTS)
    assert all(variant in VARIANTS[name] for name, variant in DESIGNED)


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in VARIANTS for variant in VARIANTS[name]])
def test_variants_break_what_they_are_designed_to(name: str, variant: str) -> None:
    found, designed = examine(name, {"variant": variant}), DESIGNED.get((name, variant), {})
    assert set(failures(found)) == set(designed), failures(found)
    for check, words in designed.items():
        assert words in failures(found)[check]


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    rows = re.findall(r'^\| `(\w+)\(variant="(\w+)"\)` \| ([^|]+) \|', page, re.MULTILINE)
    broken = {(name, variant): set(re.findall("`([^`]+)`", names)) for name, variant, names in rows}
    assert broken == {case: set(designed) for case, designed in DESIGNED.items()}
    listed = re.findall(r"^\| (`[^|]+`) \| [^|]+ \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    assert re.findall("`([^`]+)`", " ".join(listed)) == [check.name for check in CHECKS]


@pytest.mark.parametrize(("name", "settings"), OTHERS, ids=str)
def test_paths_and_placements_break_nothing(name: str, settings: Settings) -> None:
    found = examine(name, settings)
    assert failures(found) == {}
    unmeasured = {finding.name for finding in found.findings if finding.status != "pass"}
    assert unmeasured <= ({"host sync"} if not torch.cuda.is_available() else set())


@pytest.mark.parametrize(("cls", "family"), [(BoostedLAMB, "lamb"), (BoostedLARS, "lars")])
def test_a_boost_that_stays_breaks_nothing_but_what_it_is_designed_to(cls: type[Optimizer], family: Family) -> None:
    found = failures(conformance(Subject(cls.__name__, cls, family, {})))
    # whether the weights have moved is read; GradScaler is refused
    assert found.keys() == {"10⁹ elements", "skipped step"}
    assert "raises UserError: SEBoost does not work under GradScaler" in found["skipped step"]


@pytest.mark.parametrize(
    ("placement", "letter"), [("inside", "A (inside)"), ("torch", "B (torch)"), ("scaled", "C (scaled)")]
)
def test_the_placement_is_told_from_the_steps_alone(placement: str, letter: str) -> None:
    (check,) = (check for check in CHECKS if check.name == "rate drop")
    found = check.run(Subject("LARS", optim.LARS, "lars", {"momentum_placement": placement}))
    assert found.status == "pass"
    assert f": {letter}; its own option says {placement}" in found.measured


def test_a_bound_on_the_norm_is_seen_as_one() -> None:
    found = LENGTH.run(Subject("LAMB", optim.LAMB, "lamb", {"norm_bounds": (0.0, 10.0)}))
    assert (found.status, found.measured) == ("fail", "off at ‖w‖ = 400 by ×0.025, ×0.025, ×0.025, ×0.025")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_no_step_waits_for_the_gpu(name: str) -> None:
    found = HOST_SYNC.run(Subject(name, CLASSES[name], "lamb" if name == "LAMB" else "lars", {}))
    assert found.status == "pass", found.measured
