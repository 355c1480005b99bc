"""Batch normalisation over virtual batches of a fixed size, over the batch of a process, or over all ranks.

Shape suffixes: B images, C channels, H × W pixels.
"""

from typing import Any

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


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the micro-batches of all ranks, of any sizes: what one process computes of all of them.

    On GPUs it computes as ``torch.nn.SyncBatchNorm``. That, and DDP with it, refuse CPUs, so here it is no subclass of
    it; on CPUs two reductions find the mean and then the variance, and two more their gradients. Every rank must make
    the same calls in training; in evaluation, and in one process, there is nothing to exchange.
    """

    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        here = self.training and input.device.type == "cpu"
        if not here or not dist.is_available() or not dist.is_initialized():
            found: Tensor = nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
            return found
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        x_BCHW = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        count = _sum_over_ranks(x_BCHW.new_tensor(x_BCHW.numel() // x_BCHW.shape[1]))
        mean_C = _sum_over_ranks(x_BCHW.sum((0, 2, 3))) / count
        apart_BCHW = x_BCHW - mean_C[:, None, None]
        variance_C = _sum_over_ranks(apart_BCHW.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
            unbiased_C = variance_C * (count / (count - 1))
            self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), momentum)
            self.num_batches_tracked += 1
        scale_C = (variance_C + self.eps).rsqrt() * self.weight
        return (apart_BCHW * scale_C[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _SumOverRanks(torch.autograd.Function):
    """Σ over ranks; the gradient of every rank's part is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _sum_over_ranks(x: Tensor) -> Tensor:
    found: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
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
