import math
from typing import Any

import pytest
import torch
from scaling.noisy import Slope, make, train

from overnight.errors import UserError
from overnight.scaling import DATE
from overnight.scaling.sentry import Sentry
from overnight.scaling.snapshot import Snapshot


def spoiled(step: int, at: int = 60, by: float = math.inf) -> float:
    return by if step == at else 0.0


@pytest.mark.parametrize("adam", [False, True])
def test_a_spike_goes_back_to_the_exact_state_with_half_the_gain(adam: bool) -> None:
    settings: dict[str, Any] = {"k": 8, "adam": adam, "snapshot_every": 20}
    model = Slope(noise_scale=1000)
    date = make(model, **settings)
    train(date, model, 40)
    state, weights = date.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Optimizer.state_dict(date.optimizer)
    optimizer = {"state": {i: {n: _clone(v) for n, v in s.items()} for i, s in optimizer["state"].items()}} | {
        "param_groups": [dict(group) for group in optimizer["param_groups"]]
    }
    train(date, model, 21, spoil=lambda step: spoiled(step, 60))
    (back,) = [decision for decision in date.decisions if decision.what == "rollback"]
    assert (back.step, back.new) == (61, 1)
    assert torch.equal(model.w, weights["w"])
    assert date.steps == 61
    assert date.following.backoff == 0.5

    never = Slope(noise_scale=1000)
    twin = make(never, **settings)
    never.load_state_dict(weights)
    twin.optimizer.load_state_dict(optimizer)
    twin.load_state_dict(state | {"steps": 61, "samples": date.samples, "rollbacks_made": 1})
    twin.following.backoff = 0.5
    twin.following.rate *= math.sqrt(0.5) if adam else 0.5
    twin._apply()
    assert train(date, model, 30) == train(twin, never, 30)
    assert torch.equal(model.w, never.w)
    assert date.position == twin.position


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_it_goes_back_to_the_older_of_two_states_and_gives_up_in_the_end() -> None:
    model = Slope(noise_scale=1000)
    date = make(model, k=8, snapshot_every=10, rollbacks=2)
    train(date, model, 35)
    with pytest.raises(UserError, match=r"wrong again after 2 rollbacks: the loss is inf \(step 38\)"):
        train(date, model, 10, spoil=lambda step: math.inf)
    backs = [decision for decision in date.decisions if decision.what == "rollback"]
    assert "back by 16 steps, to update 20" in backs[0].why  # steps 20 and 30 were kept
    assert date.following.backoff == 0.25
    rates = [decision.new for decision in date.decisions if decision.why == "half the gain"]
    assert rates[1] == pytest.approx(rates[0] / 2)


def test_it_looks_for_a_rise_that_lasts() -> None:
    model = Slope(noise_scale=1000)
    date = make(model, k=8, snapshot_every=20)
    usual = train_loss(model)
    train(date, model, 50, spoil=lambda step: spoiled(step, 45, 6 * usual))
    assert date.rollbacks_made == 0
    train(date, model, 5, spoil=lambda step: 6 * usual if step < 53 else 0.0)
    assert date.rollbacks_made == 1
    assert "3 times in a row" in next(decision.why for decision in date.decisions if decision.what == "rollback")


def train_loss(model: Slope) -> float:
    return float(model(1_000_000, torch.Generator()).detach())


def test_a_fixed_rate_only_goes_back() -> None:
    model = Slope(noise_scale=1000)
    date = make(model, k=8, snapshot_every=10, fixed=("lr",))
    rates = train(date, model, 60, spoil=lambda step: spoiled(step, 40))
    assert date.rollbacks_made == 1
    assert set(rates[15:]) == {0.01}


def test_the_sentry_knows_noise_from_a_spike() -> None:
    draw = torch.Generator().manual_seed(0)
    sentry = Sentry()
    losses = [3.0 * math.exp(-step / 200) + 1 + 0.05 * torch.randn((), generator=draw).item() for step in range(500)]
    assert [sentry.look(loss) for loss in losses] == [None] * 500
    # one bad batch is no spike, three in a row are, and so is one that is far off
    assert sentry.look(2.2) is None
    assert sentry.look(1.25) is None
    assert [sentry.look(loss) is None for loss in (2.2, 2.2, 2.2)] == [True, True, False]
    assert "above" in str(sentry.look(9.0))


def test_the_sentry_takes_updates_that_were_left_out_with_patience() -> None:
    sentry = Sentry()
    assert [sentry.look(math.nan, updated=False) is None for _ in range(3)] == [True, True, False]
    assert sentry.look(1.0, relative_step=0.5) is None
    assert "1.5" in str(sentry.look(1.0, relative_step=1.5))


def test_a_snapshot_restores_to_the_bit_and_more_than_once() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    empty = Snapshot([*model.parameters(), *model.buffers()], optimizer)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()

    step()
    kept = Snapshot([*model.parameters(), *model.buffers()], optimizer, device="cpu")
    weights = [value.clone() for value in model.state_dict().values()]
    moments = [_clone(value) for state in optimizer.state.values() for value in state.values()]
    for _ in range(2):
        step()
        optimizer.param_groups[0]["lr"] = 7.0
        kept.restore()
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), weights, strict=True))
        now = [value for state in optimizer.state.values() for value in state.values()]
        assert all(torch.equal(a, b) for a, b in zip(now, moments, strict=True))
        assert optimizer.param_groups[0]["lr"] == 0.1
    empty.restore()
    assert not optimizer.state


def test_date_is_light_to_import() -> None:
    import subprocess
    import sys

    code = "import overnight.scaling, sys; assert 'torch' not in sys.modules; from overnight.scaling import DATE"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert DATE.__name__ == "DATE"
