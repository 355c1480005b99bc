"""Plans and the rows they draw; no ranks needed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from overnight.comm import HiddenRows, Plan, Rows, Whole, ring_bytes
from overnight.comm.row_sets import SampledRows, draw
from overnight.errors import UserError
from overnight.nn.softmax import FullSoftmax, SampledSoftmax


def test_rows_are_a_function_of_seed_and_step() -> None:
    rule = HiddenRows(0.25)
    first = draw(400, rule, seed=1, step=3)
    assert torch.equal(first.ids_R, draw(400, rule, seed=1, step=3).ids_R)
    assert not torch.equal(first.ids_R, draw(400, rule, seed=1, step=4).ids_R)
    assert not torch.equal(first.ids_R, draw(400, rule, seed=2, step=3).ids_R)
    assert torch.equal(first.ids_R, first.ids_R.unique())
    assert len(first.ids_R) == 100
    assert first.chance == 0.25


@pytest.mark.parametrize(("units", "rate", "longest"), [(400, 0.25, 4), (101, 0.3, 4), (7, 1.0, 1), (5, 0.01, 5)])
def test_no_hidden_unit_waits_longer_than_a_round(units: int, rate: float, longest: int) -> None:
    rule, last, waits = HiddenRows(rate), torch.full((units,), -1), []
    for step in range(50):
        ids = draw(units, rule, seed=2, step=step).ids_R
        assert torch.equal(ids, ids.unique())
        waits.append(int((step - last[ids]).max()))
        last[ids] = step
    assert max(waits) == longest
    assert bool((last >= 50 - longest).all())


def test_every_word_is_drawn_as_often_as_its_chance_says() -> None:
    rule = Rows(random=0.2, frequent=0.1)
    times = torch.zeros(100)
    for step in range(2000):
        times[draw(100, rule, seed=0, step=step).ids_R] += 1
    assert bool((times[:10] == 2000).all())
    chance = draw(100, rule, seed=0, step=0).chance
    assert chance == 18 / 90
    # four standard deviations of the worst of ninety binomials
    assert float((times[10:] / 2000 - chance).abs().max()) < 4.5 * math.sqrt(chance * (1 - chance) / 2000)


def test_frequent_rows_follow_the_counts() -> None:
    counts = torch.rand(50, generator=torch.Generator().manual_seed(0))
    found = draw(50, Rows(random=0.1, frequent=0.2, counts=tuple(counts.tolist())), seed=0, step=0)
    certain = found.ids_R[found.chance_R == 1.0]
    assert set(certain.tolist()) == set(counts.topk(10).indices.tolist())


def test_sampled_rows_are_an_unbiased_softmax_in_the_place_of_a_sampler() -> None:
    """Mean over steps of the gradient with respect to h: near the full softmax's, and nearer than uncorrected."""
    torch.manual_seed(0)
    full, sampled = FullSoftmax(6, 200), SampledSoftmax(6, 200, samples=60)
    sampled.load_state_dict(full.state_dict(), strict=False)
    h, targets = torch.randn(30, 6), torch.randint(0, 200, (30,))

    def gradient(output: nn.Module) -> torch.Tensor:
        x = h.clone().requires_grad_()
        output(x, targets).backward()
        assert x.grad is not None
        return x.grad

    step = 0
    rule = Rows(random=0.25, frequent=0.05)
    sampler = SampledRows(lambda: draw(200, rule, 0, step), 200)
    sampled.sampler, sampled.samples = sampler, sampler.count
    total = torch.zeros(30, 6)
    for step in range(300):  # noqa: B007
        total += gradient(sampled) / 300
    exact = gradient(full)
    assert float((total - exact).norm() / exact.norm()) < 0.03


def test_digest_tells_plans_apart() -> None:
    plans = [
        Plan(),
        Plan(seed=1),
        Plan(dtype="bf16"),
        Plan({"*": Whole()}),
        Plan({"*": Rows()}),
        Plan({"*": Rows(random=0.2)}),
        Plan({"*": Rows(counts=(1.0, 2.0))}),
        Plan({"*": Rows(counts=(2.0, 1.0))}),
        Plan({"*": HiddenRows()}),
        Plan({"a": HiddenRows(), "*": Whole()}),
        Plan({"*": Whole(), "a": HiddenRows()}),
    ]
    assert len({plan.digest() for plan in plans}) == len(plans)
    assert Plan({"*": Rows(counts=(1.0, 2.0))}).digest() == plans[6].digest()


def test_elements_and_bytes() -> None:
    named = [("out.weight", nn.Parameter(torch.zeros(100, 8))), ("rnn", nn.Parameter(torch.zeros(40, 6)))]
    plan = Plan({"out.*": Rows(random=0.1, frequent=0.1, touched=False), "rnn": HiddenRows(0.5, blocks=4)})
    assert plan.elements(named) == (10 + 9) * 8 + 4 * 5 * 6
    assert plan.elements(named, {"out.weight": 30}) == 30 * 8 + 4 * 5 * 6
    assert Plan().elements(named) == 1040
    assert ring_bytes(1040, 4) == 2 * 3 / 4 * 1040 * 4


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "rate 0": (lambda: HiddenRows(0.0), "rate=0.0"),
    "rate above 1": (lambda: HiddenRows(1.5), "rate=1.5"),
    "rate nan": (lambda: HiddenRows(math.nan), "rate=nan"),
    "rate a word": (lambda: HiddenRows("half"), "rate='half'"),  # type: ignore[arg-type]
    "random 0": (lambda: Rows(random=0), "random=0"),
    "frequent": (lambda: Rows(frequent=-0.1), "frequent=-0.1"),
    "all frequent": (lambda: Rows(frequent=1.0), "leaves no rows"),
    "compensation": (lambda: HiddenRows(compensation="double"), "'double'"),  # type: ignore[arg-type]
    "blocks": (lambda: HiddenRows(blocks=0), "blocks=0"),
    "dtype": (lambda: Plan(dtype="fp8"), "'fp8'"),  # type: ignore[arg-type]
    "no parameter": (lambda: _check({"wieght": Whole()}), "'wieght' matches no parameter"),
    "no rows": (lambda: _check({"scale": HiddenRows()}), r"scale of shape \[\] has no rows"),
    "one row": (lambda: _check({"one": HiddenRows()}), r"one of shape \[1, 4\] has no rows"),
    "uneven blocks": (lambda: _check({"weight": HiddenRows(blocks=4)}), "10 rows of weight are not 4 blocks"),
    "other vocabulary": (lambda: _check({"weight": Rows(counts=(1.0,))}), "counts 1 words, and weight has 10 rows"),
    "unknown rows": (lambda: Plan({"w": Rows()}).elements([("w", nn.Parameter(torch.zeros(9, 2)))]), "depends on its"),
}


def _check(rules: Any) -> None:
    shapes = {"weight": (10, 4), "scale": (), "one": (1, 4)}
    Plan(rules).check((name, nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items())


@pytest.mark.parametrize("name", BAD)
def test_bad_plans(name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(UserError, match=words):
        make()


def test_counts_are_sorted_once() -> None:
    rule = Rows(0.25, 0.5, counts=(1.0, 5.0, 3.0, 4.0))
    first = draw(4, rule, 0, 0)
    order = rule.by_frequency
    assert {1, 3} <= set(first.ids_R.tolist())
    draw(4, rule, 0, 1)
    assert rule.by_frequency is order
    assert rule == Rows(0.25, 0.5, counts=(1.0, 5.0, 3.0, 4.0))
