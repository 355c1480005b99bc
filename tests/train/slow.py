"""Parts that take their time, to be interrupted, and parts that fail on one rank."""

import errno
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overnight.errors import UserError
from overnight.tasks.language_model import LanguageModelTask
from overnight.tasks.loss import Loss


def slow_record(*, final: bool, slow_final: bool, seconds: float = 60, **_: Any) -> dict[str, Any]:
    """An evaluation that takes a minute, either the final one or those before."""
    if final == slow_final:
        print("evaluating slowly", flush=True)
        for _ in range(round(seconds * 50)):
            time.sleep(0.02)
    return {"split": "valid", "bits_per_byte": 8.0, "low": 7.0, "high": 9.0, "bytes": 1}


class StuckTask(LanguageModelTask):
    """A step that never ends, whatever it is told."""

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        print("stuck", flush=True)
        for _ in range(50):
            time.sleep(0.02)
            if self._told():
                print("still stuck", flush=True)
                time.sleep(60)
        return super().forward(batch, carry)

    @staticmethod
    def _told() -> bool:
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDiskTask(LanguageModelTask):
    """Fills the disk of rank 0 from the third step on, so that its next checkpoint fails."""

    steps = 0

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        self.steps += 1
        if self.steps == 3 and os.environ["RANK"] == "0":
            os.fsync = _full
        return super().forward(batch, carry)


class PickyTask(LanguageModelTask):
    """Refuses to be made on one rank."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        super().__init__(model)
        if os.environ["RANK"] == str(rank):
            raise UserError(f"Rank {rank} does not like it.", "Ask another.")
