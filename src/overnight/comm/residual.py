"""Gradients that a rank has not exchanged yet (error feedback), kept, settled and saved.

Shape suffixes: R rows exchanged, D the rest of a parameter's shape.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.errors import UserError

ResidualMode = Literal["flush", "per_rank", "drop"]
"""What of it is saved. ``flush``: its mean over the ranks, which every rank then goes on with; any number of ranks can
resume. ``per_rank``: this rank's own, to be resumed by the same number of ranks. ``drop``: nothing."""


class Residual:
    """e_p of every parameter p with a residual; e ← e + g, the rows exchanged leave it.

    Kept in the gradients' type and without the loss's scale. A gradient that is not finite does not enter, and is sent
    as NaN, so that every rank sees it and skips the step; then nobody's rows of this parameter leave, and ``undo``
    takes back those of the others.

    Args:
        group: of the ranks.
        scale: of the loss.
    """

    def __init__(self, group: dist.ProcessGroup, scale: Callable[[], float] | None = None) -> None:
        self.group, self.scale = group, scale
        self.kept: dict[str, Tensor] = {}
        self._sent: dict[str, tuple[Tensor | None, Tensor]] = {}

    def add(self, name: str, gradient: Tensor) -> Tensor:
        """Add a gradient to what is kept; returns whether it was finite, a 0-dim tensor that is not read."""
        kept = self.kept.get(name)
        if kept is None:
            kept = self.kept[name] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        finite = torch.isfinite(gradient.abs().max())
        kept.add_(torch.where(finite, gradient if self.scale is None else gradient / self.scale(), 0.0))
        return finite

    def take(self, name: str, ids_R: Tensor | None, finite: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor], None]]:
        """Rows to send, and what to call with what was sent after rounding and with what was received.

        Args:
            name: of the parameter.
            ids_R: rows; None for all.
            finite: see ``add``.
        """
        kept, scale = self.kept[name], 1.0 if self.scale is None else self.scale()
        own = kept.clone() if ids_R is None else kept.index_select(0, ids_R)
        self._sent[name] = ids_R, own

        def settle(sent: Tensor, received: Tensor) -> None:
            arrived = torch.isfinite(received.abs().max())
            left = torch.where(arrived, own - sent / scale, own)
            _put(kept, ids_R, left)

        return torch.where(finite, own * scale, torch.nan), settle

    def undo(self) -> None:
        """Take the rows of the last exchange back, with that step's gradients in them: its update is not made."""
        for name, (ids_R, own) in self._sent.items():
            _put(self.kept[name], ids_R, own)
        self._sent.clear()

    def norm(self) -> Tensor:
        """Of all that this rank keeps."""
        return torch.nn.utils.get_total_norm(self.kept.values())

    def saved(self, mode: ResidualMode) -> dict[str, Tensor]:
        """Copies on the CPU. With ``flush`` every rank must call it: it exchanges the whole, and evens it out."""
        self._sent.clear()
        if mode == "flush":
            for name in sorted(self.kept):
                self.kept[name].div_(self.group.size())
                dist.all_reduce(self.kept[name], group=self.group)
        elif mode == "drop":
            return {}
        elif mode != "per_rank":
            raise UserError(f"residual={mode!r} is not known.", "Choose flush, per_rank or drop.")
        return {name: kept.to("cpu", copy=True) for name, kept in self.kept.items()}

    def load(self, saved: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> None:
        """Go on with what was saved.

        Args:
            saved: see ``saved``.
            shapes: parameters by name.
        """
        for name, kept in saved.items():
            if name not in shapes or shapes[name].shape != kept.shape:
                raise UserError(f"The saved residual of {name} is not of this model.", "Load the model's own.")
        self.kept = {name: kept.to(shapes[name].device, copy=True) for name, kept in saved.items()}
        self._sent.clear()


def _put(kept: Tensor, ids_R: Tensor | None, rows: Tensor) -> None:
    if ids_R is None:
        kept.copy_(rows)
    else:
        kept.index_copy_(0, ids_R, rows)
