"""Hidden rows: what is not exchanged is lost, made up for, or kept; and kept over a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from comm.residual_work import accumulated, trained, with_a_bad_step, with_a_bad_tensor
from comm.test_sampled import alike, on_two
from torch import Tensor
from train.on_ranks import on_ranks

from overnight.comm import HiddenRows
from overnight.comm.row_sets import draw
from overnight.errors import UserError


def mean(results: list[dict[str, Any]], what: str) -> dict[str, Tensor]:
    return {name: torch.stack([each[what][name] for each in results]).mean(0) for name in results[0][what]}


@pytest.mark.parametrize(("dtype", "scale"), [(None, 1.0), ("bf16", 1.0), (None, 1024.0)])
def test_residual_conserves_the_sum_of_gradients(dtype: Any, scale: float, tmp_path: Path) -> None:
    """Σ exchanged + mean of what is kept = mean of Σ local, also with rounding and with a scaled loss."""
    results = on_two(accumulated, tmp_path, "residual", 5, dtype, scale)
    exchanged, kept, local = (mean(results, what) for what in ("exchanged", "kept", "local"))
    assert alike(results[0]["exchanged"], results[1]["exchanged"])
    for name, gradient in local.items():
        # what is left is the rounding of the sum over ranks in the narrow type
        tolerance = 1e-5 if dtype is None else 2**-8
        torch.testing.assert_close(
            exchanged[name] + kept[name], gradient, rtol=0, atol=tolerance * gradient.abs().max()
        )
    assert any(float(each.abs().max()) > 0 for each in kept.values())


def test_rows_are_of_units_in_all_blocks(tmp_path: Path) -> None:
    for found in on_two(accumulated, tmp_path, "residual", 3):
        for step, rows in enumerate(found["rows"]):
            units = draw(12, HiddenRows(0.4, 4), 0, step).ids_R
            assert len(units) == 5
            assert torch.equal(rows, torch.cat([units + 12 * block for block in range(4)]))
        assert found["step"] == 3


def test_none_loses_rows_and_inverse_is_right_on_average(tmp_path: Path) -> None:
    lost = on_two(accumulated, tmp_path / "none", "none", 1)
    scaled = on_two(accumulated, tmp_path / "inverse", "inverse", 1)
    name = "rnn.weight_hh_l0"
    local, rows = mean(lost, "local")[name], lost[0]["rows"][0]
    torch.testing.assert_close(lost[0]["exchanged"][name][rows], local[rows], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled[0]["exchanged"][name][rows], local[rows] * 12 / 5, rtol=1e-5, atol=1e-6)
    for found in (*lost, *scaled):
        assert not found["kept"]
        others = torch.ones(48, dtype=torch.bool)
        others[rows] = False
        assert not bool(found["exchanged"][name][others].any())


def test_a_gradient_that_is_not_finite_is_seen_by_all_and_spoils_nothing(tmp_path: Path) -> None:
    results = on_two(with_a_bad_step, tmp_path)
    for found in results:
        assert found["finite"] == [True, False, True]
        assert all(bool(each.isfinite().all()) for each in found["kept"].values())
    assert alike(results[0]["total"], results[1]["total"])


def test_an_update_that_is_not_made_loses_nothing_but_what_is_not_finite(tmp_path: Path) -> None:
    """Also of parameters whose own gradients were finite on every rank."""
    results = on_two(with_a_bad_tensor, tmp_path)
    exchanged, kept, local = (mean(results, what) for what in ("exchanged", "kept", "local"))
    for name, gradient in local.items():
        torch.testing.assert_close(
            exchanged[name] + kept[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max())
        )


def test_flush_resumes_as_if_never_interrupted(tmp_path: Path) -> None:
    whole = on_two(trained, tmp_path / "saved", None, 0, 3, "flush")
    assert alike(whole[0]["exchange"]["residual"], whole[1]["exchange"]["residual"])
    assert alike(whole[0]["kept"], whole[1]["kept"])
    resumed = on_two(trained, tmp_path / "resumed", whole[0], 3, 3, "per_rank")
    for before, after in zip(whole, resumed, strict=True):
        assert alike(before["kept"], after["kept"])
        assert after["exchange"]["step"] == 3


def test_flush_resumes_on_another_number_of_ranks(tmp_path: Path) -> None:
    """The rows are the same, so four batches of the next steps are exchanged alike by two ranks and by one."""
    start = on_two(trained, tmp_path / "saved", None, 0, 3, "flush")[0]
    two = on_two(trained, tmp_path / "two", start, 3, 6, "flush")[0]
    (one,) = on_ranks(trained, tmp_path / "one", 1, start, 3, 6, "flush")
    for name, weight in two["weights"].items():
        torch.testing.assert_close(one["weights"][name], weight, rtol=1e-5, atol=1e-6)
    for name, kept in two["exchange"]["residual"].items():
        torch.testing.assert_close(one["exchange"]["residual"][name], kept, rtol=1e-4, atol=1e-5)


def test_per_rank_and_drop(tmp_path: Path) -> None:
    saved = on_two(trained, tmp_path / "saved", None, 0, 2, "per_rank")
    assert not alike(saved[0]["kept"], saved[1]["kept"])
    for found in saved:
        assert alike(found["exchange"]["residual"], found["kept"])
    wrong = on_ranks(trained, tmp_path / "wrong", 2, saved[0], 2, 2, "drop")
    assert isinstance(wrong[1], UserError)
    assert "rank 0 of 2" in str(wrong[1])
    dropped = on_two(trained, tmp_path / "dropped", None, 0, 2, "drop")
    assert all(not found["exchange"]["residual"] and found["exchange"]["step"] == 2 for found in dropped)
