"""The batch arithmetic: global batch = ranks × accumulation × micro-batch, asserted and printable."""

from dataclasses import dataclass

from overnight.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer update is cut up.

    Attributes:
        global_batch_size: samples of one update.
        world_size: ranks.
        micro_batch_size: samples of one forward and backward on one rank.
        grad_accum_steps: micro-batches of one rank and update.
    """

    global_batch_size: int
    world_size: int
    micro_batch_size: int
    grad_accum_steps: int

    def lanes(self, rank: int) -> list[tuple[int, int]]:
        """(first, count) of each micro-batch of a rank, in order."""
        first = rank * self.micro_batch_size * self.grad_accum_steps
        size = self.micro_batch_size
        return [(first + index * size, size) for index in range(self.grad_accum_steps)]

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size:,} = {_ranks(self.world_size)} × "
            f"{self.grad_accum_steps} accumulation × {self.micro_batch_size:,} micro-batch"
        )


def plan_batches(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> BatchPlan:
    """Cut a global batch.

    Raises:
        UserError: if it is not divisible by ranks × micro-batch; it names a batch near it that is.

    >>> str(plan_batches(64, 2, 8))
    '64 = 2 ranks × 4 accumulation × 8 micro-batch'
    """
    if global_batch_size % world_size:
        nearest = max(1, global_batch_size // world_size) * world_size
        raise UserError(
            f"A batch of {global_batch_size} cannot be shared by {world_size} ranks.",
            f"Take --batch-size {nearest}, or another number of ranks.",
        )
    share = global_batch_size // world_size
    micro = min(share, micro_batch_size or share)
    if micro < 1 or share % micro:
        divisor = max(size for size in range(1, share + 1) if share % size == 0 and size <= max(1, micro))
        raise UserError(
            f"A batch of {global_batch_size} is not divisible by {_ranks(world_size)} × micro-batch {micro}.",
            f"Take --micro-batch-size {divisor}.",
        )
    return BatchPlan(global_batch_size, world_size, micro, share // micro)


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"
