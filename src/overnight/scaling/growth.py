"""Batch warm-up: the batch grows by accumulation, as the critical batch does."""

from dataclasses import dataclass


@dataclass
class BatchGrowth:
    """Accumulation steps that double from those of the smallest batch to all.

    The next doubling comes when the noise scale has passed the batch it leads to, and at the latest so that the last
    one is made after ``share`` of the run: the i-th of n at share · i/n.

    Attributes:
        options: accumulation steps, rising; the last is the full batch's.
        share: of the run's effective samples.
        index: which of them now.
    """

    options: tuple[int, ...]
    share: float
    index: int = 0

    @classmethod
    def between(cls, base_batch: int, per_accumulation: int, full: int, ranks: int, share: float) -> "BatchGrowth":
        """Halvings of ``full`` that are no smaller than the baseline's batch, and still let noise be measured.

        Args:
            base_batch: B₀.
            per_accumulation: samples that a micro-batch of every rank has together.
            full: accumulation steps of the full batch.
            ranks: that there are.
            share: as above; 0 for no batch warm-up.

        >>> BatchGrowth.between(32, 16, 16, 1, 0.1).options
        (2, 4, 8, 16)
        """
        options = [full]
        while share > 0 and options[0] % 2 == 0:
            half = options[0] // 2
            if half * per_accumulation < base_batch or half * ranks < 2:
                break
            options.insert(0, half)
        return cls(tuple(options), share)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank and step."""
        return self.options[self.index]

    @property
    def over(self) -> bool:
        """Whether the batch is the full one."""
        return self.index + 1 == len(self.options)

    def reach(self, accumulation: float) -> None:
        """Go to the first of the options with at least so many steps."""
        self.index = next((i for i, each in enumerate(self.options) if each >= accumulation), len(self.options) - 1)

    def due(self, noise_scale: float | None, next_batch: float, done: float) -> str | None:
        """Why to grow now, or None.

        Args:
            noise_scale: in samples; None while unmeasured.
            next_batch: after the doubling.
            done: share of the run.
        """
        if self.over:
            return None
        if noise_scale is not None and noise_scale >= next_batch:
            return f"the noise scale has passed {next_batch:,.0f}"
        latest = self.share * (self.index + 1) / (len(self.options) - 1)
        return f"{latest:.1%} of the run is done" if done >= latest else None
