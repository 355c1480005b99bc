"""SEBoost on two ranks: DDP and FSDP2 do what one process does, with the same coefficients on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.sharded_work import in_group
from optim.subspace.ranks_work import RULES, STEPS, alone, bare, masks, parallel, refused, resumed, sampled
from train.on_ranks import on_ranks

RANKS = 2


def given(folder: Path, work: Any) -> list[Any]:
    found = on_ranks(in_group, folder, RANKS, folder / "store", work)
    errors = [result for result in found if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return given(tmp_path_factory.mktemp("parallel"), parallel)


@pytest.mark.parametrize("way", ["DDP", "FSDP2"])
@pytest.mark.parametrize("rule", RULES)
def test_ranks_do_what_one_process_does(found: list[Any], rule: str, way: str) -> None:
    weights, coefficients = alone(rule)
    for result in found:
        ours, theirs, _ = result[f"{way} {rule}"]
        assert len(theirs) == STEPS // 3
        for a, b in zip(theirs, coefficients, strict=True):
            torch.testing.assert_close(torch.tensor(a).abs(), torch.tensor(b).abs(), rtol=1e-4, atol=1e-5)
        for a, b in zip(ours, weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    first, second = (result[f"{way} {rule}"] for result in found)
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_boost_sends_no_gradients_through_the_hook(found: list[Any], rule: str) -> None:
    assert {result[f"DDP {rule}"][2] for result in found} == {STEPS}


def test_with_sampled_gradients_a_boost_has_exact_ones(tmp_path: Path) -> None:
    first, second = given(tmp_path, sampled)
    assert len(first["coefficients"]) == STEPS // 3
    assert first["coefficients"] == second["coefficients"]
    assert any(any(found[1:]) for found in first["coefficients"])
    for name in ("weights", "next"):
        ours, theirs = (result[name][1] if name == "next" else result[name] for result in (first, second))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for result in (first, second):
        torch.testing.assert_close(result["gradient"], result["expected"], rtol=1e-10, atol=1e-12)
        before, after = result["steps"]
        assert before == after
        assert result["next"][0] == after + 1


def test_ranks_that_nothing_joins_are_refused(tmp_path: Path) -> None:
    for words in given(tmp_path, bare):
        assert words.startswith("There are 2 ranks, and the model is not wrapped for them. Give SEBoost the wrapped")


def test_sharded_state_is_resumed_to_the_bit(tmp_path: Path) -> None:
    for result in given(tmp_path, resumed):
        assert len(result) == 6
        for case, (unbroken, again) in result.items():
            assert all(torch.equal(a, b) for a, b in zip(unbroken, again, strict=True)), case


def test_dropout_differs_by_rank_and_the_mean_does_not(tmp_path: Path) -> None:
    (mean, again, first), (other_mean, _, second) = given(tmp_path, masks)
    assert mean == again == other_mean
    assert first != second
    assert mean == pytest.approx((first + second) / 2, rel=1e-6)


def test_whole_tensors_for_shards_are_refused(tmp_path: Path) -> None:
    for words in given(tmp_path, refused):
        assert "the parameter is not of that kind. Use torch.distributed.checkpoint.state_dict" in words
