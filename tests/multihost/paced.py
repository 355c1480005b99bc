"""A task that lets a test see where its rank is, and hold it there."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from overnight.tasks.language_model import LanguageModelTask
from overnight.tasks.loss import Loss


class PacedTask(LanguageModelTask):
    """Leaves a file ``RANK-PID`` in the folder at each forward, and waits while there is one named ``hold-RANK``."""

    def __init__(self, model: nn.Module, folder: str) -> None:
        super().__init__(model)
        self.folder, self.rank = Path(folder), os.environ.get("RANK", "0")

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        (self.folder / f"{self.rank}-{os.getpid()}").touch()
        while (self.folder / f"hold-{self.rank}").exists():
            time.sleep(0.01)
        return super().forward(batch, carry)
