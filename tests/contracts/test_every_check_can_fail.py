"""Toy optimizers with one bug each: every check catches the bugs that it is for, and no others."""

import pytest
import torch
from contracts.toys import Toy, ToyLAMB, ToyLARS

from overnight.doctor.optimizer import CHECKS, Conformance, Subject, conformance
from overnight.doctor.optimizer import length as length_module
from overnight.doctor.optimizer import precision as precision_module
from overnight.doctor.optimizer.host_sync import HOST_SYNC

LENGTHS = {"length", "no decay"}
LAMB_BUGS: dict[str, set[str]] = {
    "": set(),
    "clamps the norm": {*LENGTHS, "weight scale", "large tensor", "blocks"},
    "corrects the rate": {*LENGTHS, "rate drop", "large tensor", "blocks"},
    "adapts only with decay": {"no decay"},
    "decays outside": {"length", "weight scale", "blocks"},
    "large eps": {"loss scale", "weight scale", "zeros"},
    "no rule for zeros": {"zeros"},
    "freezes zeros": {"zeros"},
    "a step late": {"rate drop"},
    "foreach forgets the decay": {"modes"},
    "reads the norm": {"10⁹ elements"},
    "norm in bfloat16": {"bfloat16"},
    "plain norm": {"bfloat16", "large tensor"},
    "writes to the gradient": {"gradient"},
    "steps over an infinity": {"skipped step"},
    "step outside the state": {"resume", "resume bf16"},
    "float32 state": {"resume bf16"},
    "ignores blocks": {"blocks"},
}
LARS_BUGS: dict[str, set[str]] = {
    "": set(),
    "clamps the norm": {*LENGTHS, "weight scale", "large tensor", "blocks"},
    "starts with the raw gradient": {
        *LENGTHS,
        "loss scale",
        "weight scale",
        "zeros",
        "rate drop",
        "large tensor",
        "blocks",
    },
    "no decay in the denominator": {"length", "blocks"},
    "norm of the decayed gradient": {"length", "blocks"},
    "adapts only with decay": {"no decay", "loss scale"},
    "large eps": {*LENGTHS, "loss scale", "weight scale", "rate drop", "large tensor", "blocks"},
    "no rule for zeros": {"zeros"},
    "freezes zeros": {"zeros"},
    "rate outside": {"rate drop"},
    "the fused one has no decay": {"modes"},
    "reads the norm": {"10⁹ elements"},
    "norm in bfloat16": {"bfloat16"},
    "plain norm": {"bfloat16", "large tensor"},
    "writes to the gradient": {"gradient"},
    "steps over an infinity": {"skipped step"},
    "float32 state": {"resume bf16"},
    "ignores blocks": {"blocks"},
}
CASES = [(ToyLAMB, bug) for bug in LAMB_BUGS] + [(ToyLARS, bug) for bug in LARS_BUGS]


def examine(cls: type[Toy], bug: str, monkeypatch: pytest.MonkeyPatch) -> Conformance:
    # the thousandth step of a toy tells no more than the hundredth, a large tensor no more than a small one
    monkeypatch.setattr(length_module, "STEPS", (1, 10, 100))
    if bug not in ("", "plain norm"):
        monkeypatch.setattr(precision_module, "SIDE", 256)
    return conformance(Subject(cls.__name__, cls, "lamb" if cls is ToyLAMB else "lars", {"bug": bug}))


@pytest.mark.parametrize(("cls", "bug"), CASES)
def test_a_bug_breaks_what_it_should(cls: type[Toy], bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(cls, bug, monkeypatch)
    expected = (LAMB_BUGS if cls is ToyLAMB else LARS_BUGS)[bug]
    assert set(found.broken) == expected, [f for f in found.findings if f.status == "fail" or f.name in expected]


def test_every_check_is_among_them() -> None:
    caught = set().union(*LAMB_BUGS.values(), *LARS_BUGS.values())
    assert {check.name for check in CHECKS} - caught == {"host sync"}  # which needs CUDA: below


@pytest.mark.parametrize(("bug", "status"), [("", "pass"), ("waits for the device", "fail")])
def test_a_step_that_waits_for_the_device(bug: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mode = 0

    def set_mode(new: int | str) -> None:
        nonlocal mode
        mode = {"error": 2}.get(str(new), new)  # type: ignore[assignment]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    found = HOST_SYNC.run(Subject("ToyLAMB", ToyLAMB, "lamb", {"bug": bug}))
    assert found.status == status
    assert "as built, capturable" in found.measured
    assert mode == 0
