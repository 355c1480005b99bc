"""LAMB and LARS behave as torch's own optimizers do: closures, schedules, missing gradients, infinities, scalers."""

import math
from typing import Any

import pytest
import torch
from optim.trajectories import PATHS, expected, watch
from torch import Tensor, nn

from overnight.optim import LAMB, LARS
from overnight.optim.groups import EXCLUDED, Rule, param_groups

KINDS = pytest.mark.parametrize("kind", [LAMB, LARS])
ALL_PATHS = pytest.mark.parametrize("path", PATHS)
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    *((LAMB, {"variant": name}) for name in ("lamb", "author", "lambc", "nvlamb", "lans", "deepspeed")),
    *((LARS, {"variant": name}) for name in ("lars", "larc", "optax", "vissl")),
    (LARS, {"momentum_placement": "scaled", "nesterov": True}),
    (LARS, {"momentum": 0.0}),
    *((kind, {"adapt": False, "bias_correction": c} if kind is LAMB else {"adapt": False}) for kind, c in
      ((LAMB, True), (LAMB, False), (LARS, None))),
]  # fmt: skip


def parameter(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """With a gradient."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    p = nn.Parameter((scale * torch.randn(shape, generator=generator)).to(dtype))
    p.grad = torch.randn(shape, generator=generator).to(dtype)
    return p


def test_lars_at_a_large_rate_needs_a_smaller_one_for_what_it_does_not_adapt() -> None:
    def losses(rules: tuple[Rule, ...]) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
        x = torch.randn(256, 8)
        y = (x @ torch.randn(8, 4)).argmax(1)
        optimizer = LARS(param_groups(model, rules, weight_decay=1e-3), lr=20.0)
        found = []
        for _ in range(100):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    own = losses((Rule({"lr": 0.1}, max_ndim=1), *EXCLUDED))  # from 1.39, of four classes
    assert max(own) < 1.5
    assert own[-1] < 0.1
    assert max(losses(EXCLUDED)) > 5


@KINDS
def test_a_closure_computes_gradients_and_its_loss_comes_back(kind: Any) -> None:
    p = parameter(3, 4)
    p.grad = None
    optimizer = kind([p], lr=0.1)
    losses = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        for _ in range(3):
            losses.append(optimizer.step(closure).item())
    assert losses[0] > losses[1] > losses[2]
    assert kind([parameter(3)], lr=0.1).step() is None


@ALL_PATHS
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_are_never_written_to(maximize: bool, kind: Any, options: dict[str, Any], path: str) -> None:
    ps = [parameter(7), parameter(63, 5), parameter(4, 3, 3, 3), parameter(6, 2, dtype=torch.bfloat16)]
    ps[2].grad = ps[2].grad.to(memory_format=torch.channels_last)
    before = [p.grad.clone() for p in ps]
    versions = [p.grad._version for p in ps]
    optimizer = kind(ps, lr=10.0, weight_decay=0.1, maximize=maximize, **options, **PATHS[path])
    weights = [p.detach().clone() for p in ps]
    for _ in range(2):
        optimizer.step()
    assert all(torch.equal(p.grad, b) for p, b in zip(ps, before, strict=True))
    assert [p.grad._version for p in ps] == versions
    assert not any(torch.equal(p, w) for p, w in zip(ps, weights, strict=True))


@ALL_PATHS
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_to_maximize_is_to_minimize_the_negative(kind: Any, options: dict[str, Any], path: str) -> None:
    up, down = parameter(7, 3), parameter(7, 3)
    down.grad.neg_()
    ascent, descent = (
        kind([p], lr=0.1, weight_decay=0.1, maximize=maximize, **options, **PATHS[path])
        for p, maximize in ((up, True), (down, False))
    )
    for _ in range(3):
        ascent.step()
        descent.step()
    torch.testing.assert_close(up, down, rtol=1e-6, atol=1e-7)


@KINDS
@pytest.mark.parametrize(
    ("dtype", "device", "wanted"),
    [(torch.float32, "cpu", "fused"), (torch.bfloat16, "cpu", "loop"), (torch.float32, "meta", "foreach")],
    ids=str,
)
def test_the_path_that_is_taken_unasked(
    dtype: torch.dtype, device: str, wanted: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watch(monkeypatch)
    p = nn.Parameter(torch.ones(3, 4, dtype=dtype, device=device))
    p.grad = torch.ones_like(p)
    kind([p], lr=0.1).step()
    assert ran == {wanted}


@ALL_PATHS
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_rate_that_is_a_tensor(
    shape: tuple[int, ...], kind: Any, options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watch(monkeypatch)
    a, b = parameter(63, 5), parameter(63, 5)
    rate = torch.full(shape, 0.1)
    with_tensor, with_number = (kind([p], lr=lr, **options, **PATHS[path]) for p, lr in ((a, rate), (b, 0.1)))
    for _ in range(2):
        with_tensor.step()
        with_number.step()
        rate.mul_(0.1)
        with_number.param_groups[0]["lr"] *= 0.1
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    if options == {"variant": kind.__name__.lower()}:
        assert ran == expected(path)


@KINDS
@pytest.mark.parametrize("tensor", [False, True])
def test_torch_schedules_drive_the_rate(tensor: bool, kind: Any) -> None:
    scheduled, by_hand = parameter(5, 3), parameter(5, 3)
    driven, plain = kind([scheduled], lr=torch.tensor(8.0) if tensor else 8.0), kind([by_hand], lr=8.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(driven, [1, 2], gamma=0.25)
    for rate in (8.0, 2.0, 0.5):
        plain.param_groups[0]["lr"] = rate
        plain.step()
        driven.step()
        schedule.step()
        assert torch.equal(scheduled, by_hand)


@KINDS
@ALL_PATHS
def test_parameters_without_gradients_are_left_alone(path: str, kind: Any) -> None:
    used, unused, empty = parameter(5, 3), parameter(5, 3), parameter(0, 3)
    unused.grad = None
    before = unused.detach().clone()
    optimizer = kind([used, unused, empty], lr=0.1, **PATHS[path])
    for _ in range(3):
        optimizer.step()
    assert unused not in optimizer.state
    assert torch.equal(unused, before)
    unused.grad = torch.ones_like(unused)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in (used, unused, empty)] == [4, 1, 4]
    assert not torch.equal(unused, before)


@KINDS
@ALL_PATHS
def test_nothing_has_a_gradient(path: str, kind: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    kind([p], lr=0.1, **PATHS[path]).step()
    assert p.tolist() == [1.0] * 3


@ALL_PATHS
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_zero_weights_and_zero_gradients(kind: Any, options: dict[str, Any], path: str) -> None:
    """Ratio 1: zero weights move at the plain rate and are not trapped; zero gradients move by the decay alone."""
    zero, still, both = parameter(5, 3, scale=0.0), parameter(5, 3, seed=1), parameter(5, 3, scale=0.0)
    still.grad.zero_()
    both.grad.zero_()
    before = still.detach().clone()
    gradient = zero.grad.clone()
    optimizer = kind([zero, still, both], lr=2.0, weight_decay=0.0, **options, **PATHS[path])
    optimizer.step()
    assert torch.equal(still, before)
    assert torch.equal(both, torch.zeros(5, 3))
    if kind is LARS:
        scale = 1.9 if options.get("nesterov") else 1.0
        torch.testing.assert_close(zero.detach(), -2.0 * scale * gradient)
    elif options["variant" if "variant" in options else "adapt"] in ("lamb", "lambc", "nvlamb", "lans"):
        torch.testing.assert_close(zero.detach(), -2.0 * gradient.sign(), rtol=1e-4, atol=0)  # Adam's first step
    assert zero.abs().min() > 0


@KINDS
@ALL_PATHS
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_without_a_scaler_what_is_not_finite_shows(bad: float, path: str, kind: Any) -> None:
    hit, other = parameter(5, 3), parameter(5, 3)
    hit.grad[1, 1] = bad
    optimizer = kind([hit, other], lr=0.1, **PATHS[path])
    optimizer.step()
    assert not hit[1, 1].isfinite()
    assert other.isfinite().all()


@KINDS
@ALL_PATHS
def test_a_scaler_skips_a_step_whole_and_unscales_the_others(path: str, kind: Any) -> None:
    p, q = parameter(5, 3), parameter(5, 3)
    optimizer, plain = (kind([x], lr=0.1, **PATHS[path]) for x in (p, q))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for step in range(4):
        gradient = torch.full((5, 3), 0.25 * (step + 1)) * torch.arange(3)
        q.grad = gradient.clone()
        loss = (p * gradient).sum() * (math.inf if step == 2 else 1.0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if step == 2:
            before = [p.detach().clone(), *(x.clone() for x in optimizer.state[p].values())]
        else:
            plain.step()
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            assert scaler.get_scale() == 2.0**9
            assert all(torch.equal(a, b) for a, b in zip(before, [p, *optimizer.state[p].values()], strict=True))
    assert optimizer.state[p]["step"].item() == 3
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_groups_may_name_variants_of_their_own() -> None:
    variants = ["lamb", "author", "lambc", "lans", "deepspeed", "nvlamb"]
    together, alone = ([parameter(9, 4, seed=n) for n in range(len(variants))] for _ in range(2))
    for ps in (together, alone):
        for p in ps[:-1]:
            p.grad.mul_(1e-3)  # a norm over all groups that is, to 1e-5, that of the last
    one = LAMB([{"params": [p], "variant": name} for p, name in zip(together, variants, strict=True)], lr=0.1)
    many = [LAMB([p], lr=0.1, variant=name) for p, name in zip(alone, variants, strict=True)]
    for _ in range(3):
        one.step()
        for optimizer in many:
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    larc = LARS([{"params": [parameter(3)], "variant": "larc", "eps": 0.5}], lr=0.1).param_groups[0]
    assert (larc["clip"], larc["momentum_placement"], larc["eps"]) == (True, "torch", 0.5)


@KINDS
def test_named_parameters_and_groups_added_later(kind: Any) -> None:
    model = nn.Linear(3, 4)
    optimizer = kind(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    late = nn.Linear(4, 2, bias=False)
    optimizer.add_param_group({"params": [("late", late.weight)], "lr": 0.5, "adapt": False})
    before = late.weight.detach().clone()
    late(model(torch.ones(5, 3))).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[1]["param_names"] == ["late"]
    assert not torch.equal(late.weight, before)


def test_no_bias_correction_of_a_beta_next_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    for path in ("loop", "fused"):
        p = parameter(5, 3, scale=0.0)
        LAMB([p], lr=1.0, betas=(0.9, 1 - 1e-9), eps=0.0, bias_correction=False, adapt=False, **PATHS[path]).step()
        moved.append(p.detach())
    torch.testing.assert_close(moved[0], moved[1])
