"""Batch normalisation over virtual batches of a fixed size, over the batch of a process, or over all ranks.

Shape suffixes: B images, C channels, H × W pixels.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Ghost batch normalisation (Hoffer et al. 2017, arXiv 1705.08741): each virtual batch has statistics of its own.

    Images v·i to v·(i + 1) of a batch are normalised by their own mean and variance. So what a large batch computes is
    what its virtual batches would, however they are spread over ranks and micro-batches of a multiple of v. With v = B
    it is ``nn.BatchNorm2d``.

    Running statistics move by ``momentum`` once a batch, towards the mean over virtual batches; Hoffer et al. move them
    once a virtual batch, by which a large batch would forget more.

    Args:
        num_features: C.
        virtual_batch: v, images.
        eps, momentum: as in ``nn.BatchNorm2d``.

    Raises:
        UserError: if v is less than 1, and in training for a batch that is no multiple of it.

    Example:
        >>> norm = GhostBatchNorm2d(3, virtual_batch=4)
        >>> norm(torch.randn(8, 3, 2, 2))[:4].mean().abs().item() < 1e-6
        True
    """

    def __init__(self, num_features: int, virtual_batch: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.rate = momentum
        if virtual_batch < 1:
            raise UserError(f"A virtual batch of {virtual_batch} images cannot be.", "Take at least 1, usually 32.")
        self.virtual_batch = virtual_batch

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCHW)
        size = self.virtual_batch
        if len(x_BCHW) % size:
            raise UserError(
                f"{len(x_BCHW)} images of one forward pass are no multiple of the virtual batch of {size}.",
                f"Take a --batch-size and --micro-batch-size that {size} divides, or another virtual batch.",
            )
        parts, means, variances = [], [], []
        for part in x_BCHW.split(size):
            # with a momentum of 1 the running statistics are those of the batch
            mean = torch.zeros_like(self.running_mean)  # type: ignore[arg-type]
            variance = torch.zeros_like(self.running_var)  # type: ignore[arg-type]
            parts.append(F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)
            variances.append(variance)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(torch.stack(means).mean(0), self.rate)
            self.running_var.lerp_(torch.stack(variances).mean(0), self.rate)
            self.num_batches_tracked += 1
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"{self.num_features}, virtual_batch={self.virtual_batch}, eps={self.eps}, momentum={self.rate}"


class CrossRankBatchNorm2d(nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm``: statistics over the micro-batches of all ranks. On GPUs, as torch has no other.

    Raises:
        UserError: in training on several ranks without a GPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if self.training and several and input.device.type == "cpu":
            raise UserError(
                "Batch norm over ranks needs GPUs: torch's SyncBatchNorm does not run on CPUs.",
                "Take --norm batch or --norm ghost:32.",
            )
        found: Tensor = super().forward(input)
        return found


def batch_norm(channels: int, norm: str = "batch") -> nn.Module:
    """The normalisation of a name, for C channels.

    Args:
        channels: C.
        norm: ``batch``: over what a process computes at once. ``ghost:V``: over virtual batches of V images. ``sync``:
            over all ranks.

    Raises:
        UserError: for another name.

    >>> batch_norm(3, "ghost:32").virtual_batch
    32
    """
    kind, _, size = norm.partition(":")
    if kind == "ghost" and size.isdecimal():
        return GhostBatchNorm2d(channels, int(size))
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "sync":
        return CrossRankBatchNorm2d(channels)
    raise UserError(f"There is no norm {norm!r}.", "Choose batch, sync, or ghost:V with V images, such as ghost:32.")
