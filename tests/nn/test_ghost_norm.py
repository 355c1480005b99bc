"""Ghost batch norm: nn.BatchNorm2d where the virtual batch is the batch, and several of them where it is not."""

from typing import Any

import pytest
import torch
from torch import nn

from overnight.errors import UserError
from overnight.nn.ghost_norm import CrossRankBatchNorm2d, GhostBatchNorm2d, batch_norm


def given(images: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(images, 7, 3, 5) * 3 + 1, torch.randn(images, 7, 3, 5)


def passed(norm: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(upstream)
    gradients = [x.grad, *(parameter.grad for parameter in norm.parameters())]
    assert all(gradient is not None for gradient in gradients)
    return [y.detach(), *gradients]  # type: ignore[list-item]


def seeded(norm: Any) -> Any:
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 7))
        norm.bias.copy_(torch.linspace(1, -1, 7))
    return norm


def test_it_is_batch_norm_where_the_virtual_batch_is_the_batch() -> None:
    x, upstream = given()
    ours, theirs = seeded(GhostBatchNorm2d(7, 12)), seeded(nn.BatchNorm2d(7))
    for _ in range(3):
        for mine, its in zip(passed(ours, x, upstream), passed(theirs, x, upstream), strict=True):
            torch.testing.assert_close(mine, its)
    for name, buffer in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], buffer, msg=name)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_each_virtual_batch_has_its_own_statistics() -> None:
    x, upstream = given()
    whole = passed(seeded(GhostBatchNorm2d(7, 4)), x, upstream)
    parts = [
        passed(seeded(nn.BatchNorm2d(7)), x[start : start + 4], upstream[start : start + 4]) for start in (0, 4, 8)
    ]
    for place in (0, 1):
        torch.testing.assert_close(whole[place], torch.cat([part[place] for part in parts]))
    for place in (2, 3):
        torch.testing.assert_close(whole[place], sum(part[place] for part in parts))


def test_running_statistics_move_once_a_batch_to_the_mean_of_virtual_batches() -> None:
    x, _ = given()
    norm = GhostBatchNorm2d(7, 4, momentum=0.25)
    norm(x)
    split = x.view(3, 4, 7, -1).transpose(1, 2).flatten(2)
    torch.testing.assert_close(norm.running_mean, 0.25 * split.mean(2).mean(0))
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * split.var(2).mean(0))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1


def test_names_and_refusals() -> None:
    assert type(batch_norm(3)) is nn.BatchNorm2d
    assert isinstance(batch_norm(3, "sync"), nn.SyncBatchNorm)
    for wrong in ("layer", "ghost", "ghost:", "ghost:x"):
        with pytest.raises(UserError, match="There is no norm"):
            batch_norm(3, wrong)
    with pytest.raises(UserError, match="virtual batch of 0"):
        batch_norm(3, "ghost:0")
    norm = GhostBatchNorm2d(7, 5)
    with pytest.raises(UserError, match="12 images of one forward pass are no multiple of the virtual batch of 5"):
        norm(given()[0])
    norm.eval()(given()[0])  # a held-out image is normalised by the running statistics, whatever the batch


def test_over_ranks_one_process_is_batch_norm_and_two_without_a_gpu_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, upstream = given()
    for mine, its in zip(
        passed(seeded(CrossRankBatchNorm2d(7)), x, upstream),
        passed(seeded(nn.BatchNorm2d(7)), x, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="Batch norm over ranks needs GPUs"):
        CrossRankBatchNorm2d(7)(x)
