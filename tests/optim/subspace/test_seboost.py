"""SEBoost as an optimizer: the base undisturbed, the boost batch's loss, hooks, schedulers, groups, momentum."""

import copy
from typing import Any

import pytest
import torch
from optim.subspace.cases import BASES, SEARCHES, Net, batch, boosted, criterion, loss_of, net, same, settings_of, train
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, StepLR

from overnight.optim import LAMB, SEBoost
from overnight.optim.subspace import Anderson, Fixed, GaussNewton, NonlinearCG
from overnight.optim.subspace.subspace import searched_columns

STAYING: dict[str, dict[str, Any]] = {
    "Fixed(1)": {"rule": Fixed(1.0), "loss": None, "batches": None},
    "jump=False": {"jump": False, "momentum_column": 0.5, "anchors": (2,)},
    "Gauss-Newton, jump=False": {"rule": GaussNewton(), "jump": False, "orthonormal": True},
    "pullback": {"rule": Fixed(1.0), "loss": None, "batches": None, "base_momentum": "pullback"},
    "refused": {"rule": NonlinearCG(), "refuse": True},
}


def refusing(model: Net) -> Any:
    """A loss whose second batches get worse with every call: what the boost batch gains is refused."""
    calls = {"second": 0.0}

    def loss(given: Any) -> torch.Tensor:
        x, target, number = given
        if number % 2:
            calls["second"] += 1.0
        return criterion(model(x), (x, target)) + calls["second"]

    return loss


@pytest.mark.parametrize("staying", STAYING)
@pytest.mark.parametrize("base", BASES)
def test_coefficients_of_zero_are_the_base_optimizer_to_the_bit(base: str, staying: str) -> None:
    settings = dict(STAYING[staying])
    alone, wrapped = net(noise=0.1), net(noise=0.1)
    if settings.pop("refuse", False):
        settings["loss"] = refusing(wrapped)
        settings["batches"] = lambda number: (*batch(number), number)
    optimizer = boosted(wrapped, base, **settings)
    train(alone, BASES[base](alone.parameters()), range(14))
    before = torch.get_rng_state()
    train(wrapped, optimizer, range(14))
    assert same(alone, wrapped)
    assert torch.equal(alone.draw.get_state(), wrapped.draw.get_state())
    assert torch.equal(before, torch.get_rng_state())
    assert optimizer.last is not None
    assert optimizer.last.outer == 4
    if staying == "refused":
        assert optimizer.last.reason == "the loss of the second batch rose"
        assert optimizer.last.loss_after < optimizer.last.loss_before  # type: ignore[operator]


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("base", BASES)
def test_the_loss_of_the_boost_batch_never_rises(base: str, rule: str) -> None:
    model = net(noise=0.1)
    optimizer = boosted(model, base, SEARCHES[rule], accept=False, anchors=(6,), momentum_column=0.9)
    accepted, gained = 0, 0.0
    for step in range(30):
        train(model, optimizer, range(step, step + 1))
        if step % 3 == 2:
            assert optimizer.last is not None
            before, after = optimizer.last.loss_before, optimizer.last.loss_after
            assert before is not None
            if optimizer.last.accepted:
                assert after is not None
                closure = optimizer.boost_closure(batch(10_000 + optimizer.last.outer - 1))
                assert closure() == pytest.approx(after, rel=1e-5)
                assert after <= before
                accepted, gained = accepted + 1, gained + before - after
    assert accepted >= 8
    assert gained > 0


def test_the_best_point_is_where_the_weights_are() -> None:
    model = net(dropout=0.0)
    optimizer = boosted(model, accept=False, every=100, batches=None)
    train(model, optimizer, range(5))
    before = loss_of(model)(batch(77)).item()
    found = optimizer.boost(batch(77))
    assert found.accepted
    assert found.loss_before == pytest.approx(before, rel=1e-6)
    assert found.loss_after == pytest.approx(loss_of(model)(batch(77)).item(), rel=1e-6)
    assert found.loss_after < found.loss_before  # type: ignore[operator]
    assert (found.gradients, found.forwards) == (5, 1)


def test_loss_that_is_not_finite_stays_and_says_so() -> None:
    model = net()

    def loss(given: Any) -> torch.Tensor:
        return loss_of(model)(given) * float("nan")

    optimizer = boosted(model, loss=loss)
    plain = net()
    train(plain, BASES["momentum"](plain.parameters()), range(3))
    train(model, optimizer, range(3))
    assert same(model, plain)
    assert optimizer.last is not None
    assert (optimizer.last.accepted, optimizer.last.reason) == (False, "the loss is not finite")


def test_a_search_that_meets_infinities_comes_back() -> None:
    model = net(dropout=0.0)
    start = loss_of(model)(batch(0)).item()

    def loss(given: Any) -> torch.Tensor:
        value = loss_of(model)(given)
        return value if value.item() < 1.5 * start else value * float("inf")

    optimizer = boosted(model, rule=NonlinearCG(max_evaluations=12, first_length=1e4), loss=loss, accept=False)
    train(model, optimizer, range(3))
    assert optimizer.last is not None
    assert optimizer.last.accepted
    assert optimizer.last.loss_after < optimizer.last.loss_before  # type: ignore[operator]


def test_no_gradient_is_touched() -> None:
    model = net()
    optimizer = boosted(model, every=1, history=2)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model)(batch(step)).backward()
        before = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
        optimizer.step()
        for p, (grad, values) in zip(model.parameters(), before, strict=True):
            assert p.grad is grad
            assert torch.equal(grad, values)
    assert optimizer.last is not None
    assert optimizer.last.gradients > 0


def test_schedulers_hooks_and_groups_are_shared() -> None:
    model = net()
    groups = [{"params": model.layers[0].parameters(), "lr": 0.1}, {"params": model.layers[1].parameters()}]
    base = torch.optim.SGD(groups, lr=0.2)
    optimizer = SEBoost(base, Fixed(0.5), every=2, history=1)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    base.register_step_post_hook(lambda *_: calls.append("base"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    ours, theirs = StepLR(optimizer, 1, gamma=0.5), LambdaLR(base, lambda step: 1.0)
    optimizer.add_param_group({"params": model.layers[4].parameters(), "lr": 0.4})
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        ours.step()
    assert calls == ["before", "base", "after"] * 4
    assert [group["lr"] for group in base.param_groups[:2]] == pytest.approx([0.1 / 16, 0.2 / 16])
    assert len(base.param_groups) == 3
    assert theirs.optimizer is base
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is base.param_groups
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_group_that_comes_later_has_no_past() -> None:
    model = net()
    optimizer = SEBoost(torch.optim.SGD(model.layers[0].parameters(), lr=0.1), Fixed(0.5), every=2, history=2)
    train(model, optimizer, range(2))
    start = model.layers[4].weight.detach().clone()
    optimizer.add_param_group({"params": model.layers[4].parameters()})
    train(model, optimizer, range(2, 3))
    first = model.layers[4].weight.detach().clone()
    train(model, optimizer, range(3, 4))
    fast = optimizer.buffer.stored[2].rows[optimizer.buffer.position]
    assert not torch.equal(first, start)
    torch.testing.assert_close(model.layers[4].weight.detach(), start + fast.view_as(start))


def test_frozen_and_idle_parameters_stay() -> None:
    model = net()
    model.layers[0].weight.requires_grad_(False)
    start = model.layers[0].weight.clone()
    optimizer = boosted(model, rule=GaussNewton())
    train(model, optimizer, range(6))
    assert torch.equal(model.layers[0].weight, start)
    assert optimizer.last is not None
    assert optimizer.last.products > 0


@pytest.mark.parametrize("kind", ["momentum", "Adam"])
def test_momentum_is_kept_reset_or_pulled_back(kind: str) -> None:
    found = {}
    name = "momentum_buffer" if kind == "momentum" else "exp_avg"
    for how in ("keep", "reset", "pullback"):
        model = net(dropout=0.0)
        optimizer = boosted(model, kind, Fixed(0.5), loss=None, batches=None, every=4, base_momentum=how)
        train(model, optimizer, range(4))
        found[how] = optimizer.state[model.layers[0].weight][name].clone()
    assert found["keep"].abs().max() > 0
    assert found["reset"].abs().max() == 0
    torch.testing.assert_close(found["pullback"], found["keep"] / 2)


def test_low_precision_weights_with_masters_move_with_them() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3).bfloat16()
    base = LAMB(model.parameters(), lr=0.05, master_weights=True)
    optimizer = SEBoost(base, NonlinearCG(), every=2, accept=False, batches=batch, **_bf16(model))
    for step in range(6):
        optimizer.zero_grad()
        _bf16(model)["loss"](batch(step)).backward()
        optimizer.step()
    assert optimizer.last is not None
    assert optimizer.last.accepted
    for p in model.parameters():
        master = base.state[p]["master"]
        assert master.dtype == torch.float32
        assert torch.equal(p, master.bfloat16())
        assert not torch.equal(p.float(), master)


def _bf16(model: nn.Module) -> dict[str, Any]:
    return {"model": model, "loss": lambda given: criterion(model(given[0].bfloat16()).float(), given)}


@pytest.mark.parametrize(
    "storage", [{"storage_dtype": torch.bfloat16}, {"storage_device": "cpu"}, {"storage_dtype": torch.float64}], ids=str
)
def test_storage(storage: dict[str, Any]) -> None:
    reference, model = net(dropout=0.0), net(dropout=0.0)
    train(reference, boosted(reference, accept=False), range(9))
    optimizer = boosted(model, accept=False, **storage)
    train(model, optimizer, range(9))
    kept = optimizer.buffer.stored[0].rows
    assert kept.dtype == storage.get("storage_dtype", torch.float32)
    tolerance = 0.05 if kept.dtype == torch.bfloat16 else 1e-3
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


def test_a_dtype_by_name() -> None:
    model = net()
    optimizer = boosted(model, storage_dtype="bfloat16")
    train(model, optimizer, range(4))
    assert {stored.rows.dtype for stored in optimizer.buffer.stored} == {torch.bfloat16}


@pytest.mark.parametrize("rule", ["CG", "Gauss-Newton"])
def test_a_pass_with_gradients_may_round_in_another_way(rule: str) -> None:
    model = net(dropout=0.0)

    def rounded(value: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return value * 1.01 if outputs.requires_grad else value

    def whole(given: Any) -> torch.Tensor:
        outputs = model(given[0])
        return rounded(criterion(outputs, given), outputs)

    settings: dict[str, Any] = {"loss": whole}
    if SEARCHES[rule].needs_outputs:
        settings = {"loss": lambda outputs, given: rounded(criterion(outputs, given), outputs)}
    optimizer = boosted(model, "Adam", SEARCHES[rule], accept=False, **settings)
    found = []
    for step in range(12):
        train(model, optimizer, range(step, step + 1))
        if step % 3 == 2:
            assert optimizer.last is not None
            found.append(optimizer.last)
    assert any(boost.accepted for boost in found)
    with torch.no_grad():
        last = optimizer.boost_closure(batch(10_000 + found[-1].outer - 1))()
    kept = found[-1].loss_after if found[-1].accepted else found[-1].loss_before
    assert last == pytest.approx(kept, rel=1e-5)  # of a pass without gradients, as all that are compared


def test_orthonormal_columns_are_orthogonal_and_as_long_as_the_newest_displacement() -> None:
    model = net(dropout=0.0)
    optimizer = boosted(model, orthonormal=True, anchors=(1, 2), momentum_column=0.5, accept=False)
    train(model, optimizer, range(15))
    weights, buffer = optimizer._weights(), optimizer.buffer
    columns, history = searched_columns(buffer, buffer.layout, weights, orthonormal=True)
    gram = columns.t() @ buffer.gram(weights) @ columns
    length = buffer.gram(weights)[buffer.position, buffer.position]
    assert history == 0
    assert 2 <= columns.shape[1] < 7  # an anchor that was just set is the newest displacement again
    torch.testing.assert_close(gram, length * torch.eye(len(gram), dtype=torch.float64), rtol=1e-3, atol=1e-3 * length)


def test_copies_train_alike_and_apart() -> None:
    model = net()
    optimizer = boosted(model, rule=Anderson(), loss=None, batches=None)
    train(model, optimizer, range(5))
    other, other_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, range(5, 13))
    weights = copy.deepcopy(model.state_dict())
    train(other, other_optimizer, range(5, 13))
    assert same(model, other)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))


def test_gauss_newtons_products_agree() -> None:
    model = net(dropout=0.3).double()
    found = []
    for rule in (GaussNewton(), GaussNewton(products="differences", difference=1e-4)):
        twin = copy.deepcopy(model)
        optimizer = boosted(
            twin, "Adam", rule, accept=False, every=6, batches=lambda n: tuple(x.double() for x in batch(n))
        )
        loss = loss_of(twin)
        for step in range(18):
            optimizer.zero_grad()
            torch.manual_seed(step)
            loss(tuple(x.double() for x in batch(step))).backward()  # type: ignore[arg-type]
            optimizer.step()
        assert optimizer.last is not None
        assert optimizer.last.accepted
        found.append(torch.tensor(optimizer.last.coefficients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_the_closure_is_repeatable_and_leaves_no_trace() -> None:
    model = net(noise=0.5)
    optimizer = boosted(model)
    train(model, optimizer, range(2))
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), model.draw.get_state()
    closure = optimizer.boost_closure(batch(5))
    first = closure()
    parameters = list(model.parameters())
    loss, gradients = closure.gradient(parameters)
    assert (closure(), float(loss)) == (first, pytest.approx(first, rel=1e-6))
    assert torch.equal(gradients[0], closure.gradient(parameters)[1][0])  # type: ignore[arg-type]
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(model.draw.get_state(), states[1])
    other = loss_of(model)(batch(5)).item()
    assert other != first  # dropout is alive outside


def test_boosts_by_hand() -> None:
    model = net()
    optimizer = boosted(model, batches=None, every=2)
    for step in range(6):
        assert not optimizer.due
        train(model, optimizer, range(step, step + 1))
        if optimizer.due:
            assert optimizer.boost(batch(100 + step), batch(200 + step)).outer == (step + 1) // 2
    assert settings_of(model, None)["model"] is optimizer.model
