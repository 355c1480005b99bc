"""Parts that take their time, to be interrupted."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
        import signal

        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
