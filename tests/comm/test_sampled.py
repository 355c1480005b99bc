"""Synchronous sampled gradients on two ranks: alike, equal to DDP where they must be, one set of rows a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from comm.work import (
    HIDDEN,
    WORDS,
    Words,
    batch,
    beside_plain_ddp,
    closed_and_wrapped_again,
    gradients,
    ranks,
    registered_after_a_mistake,
    touched_rows_of_both_kinds,
    trained,
    with_an_empty_batch,
)
from torch import Tensor
from train.on_ranks import on_ranks

from overnight.comm import Plan, sampled_parallel
from overnight.comm.row_sets import draw


def on_two(work: Any, folder: Path, *arguments: Any) -> list[Any]:
    results = on_ranks(work, folder, 2, *arguments)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


PLANS = {
    "no rules": (Plan(), {}),
    "rows": (WORDS, {}),
    "hidden rows": (Plan({**WORDS.rules, **HIDDEN}), {}),
    "bf16": (Plan({**WORDS.rules, **HIDDEN}, dtype="bf16"), {}),
    "tied": (WORDS, {"tied": True}),
    "dense": (Plan({**WORDS.rules, **HIDDEN}), {"sparse": False}),
}


@pytest.mark.parametrize("name", PLANS)
def test_replicas_are_the_same_bit_for_bit_after_every_step(name: str, tmp_path: Path) -> None:
    plan, model = PLANS[name]
    first, second = on_two(_trained, tmp_path, plan, model)
    assert len(first["weights"]) == 3
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert alike(one, other)
    moved = [not torch.equal(first["weights"][0][each], first["weights"][2][each]) for each in first["weights"][0]]
    assert all(moved)


def _trained(plan: Plan, model: dict[str, Any], how: dict[str, Any] | None = None) -> dict[str, Any]:
    return trained(plan, **(how or {}), **model)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_rate_1_is_plain_ddp(accumulate: int, tmp_path: Path) -> None:
    for found in on_two(beside_plain_ddp, tmp_path, accumulate):
        for name, plain in found["plain"].items():
            assert torch.equal(found["hook"][name], plain), name
            # micro-batches' sparse gradients are summed at the end, dense ones as they come
            torch.testing.assert_close(found["sampled"][name], plain, rtol=0 if accumulate == 1 else 1e-5, atol=1e-6)


def test_rows_of_a_step(tmp_path: Path) -> None:
    """All ranks' words, the frequent and the drawn ones, and no others; the same for weight and bias."""
    results = on_two(_trained, tmp_path, WORDS, {})
    drawn = draw(300, WORDS.rules["output.*"], WORDS.seed, 2).ids_R  # type: ignore[arg-type]
    words = [batch(20, rank) for rank in range(2)]
    inputs, targets = (torch.cat([pair[side].flatten() for pair in words]).unique() for side in range(2))
    assert set(range(6)) <= set(drawn.tolist())
    assert len(drawn) == 6 + 15
    for found in results:
        assert torch.equal(found["rows"]["embedding.weight"], inputs)
        for name in ("output.weight", "output.bias"):
            assert torch.equal(found["rows"][name], torch.cat([drawn, targets]).unique())


def test_one_set_of_rows_an_optimizer_step(tmp_path: Path) -> None:
    how = {"accumulate": 3}
    for found in on_two(_trained, tmp_path, Plan({**WORDS.rules, **HIDDEN}), {}, how):
        assert found["step"] == 3
        of_step = [found["drawn"][2 * step : 2 * step + 2] for step in range(3)]
        assert all(torch.equal(one, other) for one, other in of_step)
        assert not torch.equal(of_step[0][0], of_step[1][0])
        targets = torch.cat([batch(20 + micro, rank)[1].flatten() for micro in range(3) for rank in range(2)])
        expected = torch.cat([of_step[2][0], targets]).unique()
        assert torch.equal(found["rows"]["output.weight"], expected)


def test_clipping_is_of_what_was_exchanged(tmp_path: Path) -> None:
    first, second = on_two(_trained, tmp_path, Plan({**WORDS.rules, **HIDDEN}), {}, {"max_norm": 0.05})
    assert first["norms"] == second["norms"]
    assert all(float(norm) > 0.05 for norm in first["norms"])
    torch.testing.assert_close(torch.stack(first["clipped"]), torch.full((3,), 0.05), rtol=1e-4, atol=0)


def test_optimizer_state_is_of_the_rows_of_all_ranks(tmp_path: Path) -> None:
    first, second = on_two(_trained, tmp_path, WORDS, {}, {"steps": 1})
    seen = torch.cat([batch(0, rank)[0].flatten() for rank in range(2)]).unique()
    own = [batch(0, rank)[0].unique() for rank in range(2)]
    assert len(seen) > max(map(len, own))
    for found in (first, second):
        second_moments = found["state"]["embedding.weight"]["exp_avg_sq"].sum(1)
        assert torch.equal(second_moments.nonzero()[:, 0], seen)


def test_a_tied_weight_is_exchanged_once(tmp_path: Path) -> None:
    """Its rows are those of both uses, and the gradient is that of one process reading both batches."""
    found = on_two(_tied_gradients, tmp_path)
    model = Words(seed=3, tied=True, sparse=False)
    (sum(model(*batch(0, rank)) for rank in range(2)) / 2).backward()
    del model.output.generator
    for of_rank, rows in found:
        assert alike(of_rank, found[0][0])
        assert set(rows) == {"embedding.weight", "output.bias"}
        assert len(set(rows.values())) == 1
        assert of_rank.keys() == gradients(model).keys()


def _tied_gradients() -> tuple[dict[str, Tensor], dict[str, int]]:
    with ranks() as group:
        parallel = sampled_parallel(Words(seed=3, tied=True), Plan())
        parallel(*batch(0, group.rank())).backward()
        found = gradients(parallel.module), dict(parallel.exchange.touched)
        parallel.close()
        return found


@pytest.mark.parametrize("idle", [False, True])
def test_a_rank_without_tokens(idle: bool, tmp_path: Path) -> None:
    first, second = on_two(with_an_empty_batch, tmp_path, idle)
    assert alike(first, second)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in first.values())
    used = batch(0, 0)[0].unique()
    assert torch.equal(first["embedding.weight"].abs().sum(1).nonzero()[:, 0], used)


def test_touched_rows_of_dense_and_of_sparse_gradients(tmp_path: Path) -> None:
    """Both join the ranks' ids, in one order also where a rank does not use the sparse layer."""
    for found in on_two(touched_rows_of_both_kinds, tmp_path):
        assert found["found"].keys() == found["expected"].keys()
        for name, expected in found["expected"].items():
            torch.testing.assert_close(found["found"][name], expected)


def test_nothing_of_an_exchange_is_left_on_the_model(tmp_path: Path) -> None:
    first, second = on_two(closed_and_wrapped_again, tmp_path)
    assert first["same"]
    assert "sparse.weight" in first["gradients"]
    assert alike(first["gradients"], second["gradients"])


def test_a_corrected_plan_after_a_mistake(tmp_path: Path) -> None:
    for said in on_two(registered_after_a_mistake, tmp_path):
        assert said.startswith("The gradient of sparse.weight is sparse")
