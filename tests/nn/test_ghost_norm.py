"""Ghost batch norm: torch.nn.BatchNorm2d where the virtual batch is the batch, and several of them where it is not."""

from pathlib import Path

import pytest
import torch
from nn.norm_work import cross_rank_norm, given, passed, seeded, train_resnet
from train.on_ranks import on_ranks

from overnight.errors import UserError
from overnight.nn.ghost_norm import CrossRankBatchNorm2d, GhostBatchNorm2d, batch_norm
from overnight.train.checkpoint import load_checkpoint


def test_it_is_batch_norm_where_the_virtual_batch_is_the_batch() -> None:
    x, upstream = given()
    ours, theirs = seeded(GhostBatchNorm2d(7, 12)), seeded(torch.nn.BatchNorm2d(7))
    for _ in range(3):
        for mine, its in zip(passed(ours, x, upstream), passed(theirs, x, upstream), strict=True):
            torch.testing.assert_close(mine, its)
    for name, buffer in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], buffer, msg=name)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_each_virtual_batch_has_its_own_statistics() -> None:
    x, upstream = given()
    whole = passed(seeded(GhostBatchNorm2d(7, 4)), x, upstream)
    shares = [slice(start, start + 4) for start in (0, 4, 8)]
    parts = [passed(seeded(torch.nn.BatchNorm2d(7)), x[share], upstream[share]) for share in shares]
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
    assert type(batch_norm(3)) is torch.nn.BatchNorm2d
    assert isinstance(batch_norm(3, "sync"), CrossRankBatchNorm2d)
    for wrong in ("layer", "ghost", "ghost:", "ghost:x"):
        with pytest.raises(UserError, match="There is no norm"):
            batch_norm(3, wrong)
    with pytest.raises(UserError, match="virtual batch of 0"):
        batch_norm(3, "ghost:0")
    norm = GhostBatchNorm2d(7, 5)
    with pytest.raises(UserError, match="12 images of one forward pass are no multiple of the virtual batch of 5"):
        norm(given()[0])
    norm.eval()(given()[0])  # a held-out image is normalised by the running statistics, whatever the batch


def test_over_ranks_one_process_is_batch_norm() -> None:
    x, upstream = given()
    for mine, its in zip(
        passed(seeded(CrossRankBatchNorm2d(7)), x, upstream),
        passed(seeded(torch.nn.BatchNorm2d(7)), x, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("ranks", [1, 2])
def test_over_ranks_it_is_batch_norm_of_all_of_them(tmp_path: Path, ranks: int) -> None:
    """Outputs, gradients of input, weight and bias, and running statistics; ranks have 12, or 7 and 5 images."""
    x, upstream = given()
    theirs = seeded(torch.nn.BatchNorm2d(7))
    whole = passed(theirs, x, upstream)
    found = on_ranks(cross_rank_norm, tmp_path, ranks)
    for place in (0, 1):
        torch.testing.assert_close(torch.cat([parts[place] for parts, _ in found]), whole[place])
    for place in (2, 3):
        torch.testing.assert_close(sum(parts[place] for parts, _ in found), whole[place])
    for _, state in found:
        for name, buffer in theirs.state_dict().items():
            torch.testing.assert_close(state[name], buffer, msg=name)


def test_a_network_with_it_trains_on_two_ranks_as_on_one(tmp_path: Path) -> None:
    """The recipe with --norm sync on two ranks, and with --norm batch alone."""
    on_ranks(train_resnet, tmp_path / "out", 2, tmp_path, "sync")
    on_ranks(train_resnet, tmp_path / "alone", 1, tmp_path, "batch")
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000003").model for name in ("batch", "sync"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
