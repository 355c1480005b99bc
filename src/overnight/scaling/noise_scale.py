"""The gradient noise scale, from gradients of micro-batches and of ranks that training computes anyway."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from overnight.errors import UserError
from overnight.scaling.noise_reading import NoiseReading, noise_reading
from overnight.scaling.preconditioner import Preconditioner

RAW, PRECONDITIONED = 0, 1


class NoiseScale:
    """B_noise = tr(Σ) / |G|², from n micro-batches of b samples in a step of B = n·b, over steps and ranks.

    McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1, with the mean square norm of all n micro-batches of all
    ranks in the place of one small batch:

        |G|² = (n |ḡ|² − mean |gᵢ|²) / (n − 1),    tr(Σ) = (mean |gᵢ|² − |ḡ|²) B / (n − 1)

    Both are summed over a window of steps and divided at the end: the ratio of moving averages, never the average of
    ratios. The window is ``blocks`` blocks of ``block_steps`` measured steps; the oldest block makes room for the next.

    The norms of micro-batches are taken by hooks on the parameters as the gradients arrive, those of the whole batch in
    ``observe``. Nothing is copied, nothing is read from the device and nothing is sent to other ranks before ``read``.
    The backward of the last micro-batch must leave the mean over all in ``.grad`` (so with DistributedDataParallel, and
    with losses divided by the number of micro-batches); micro-batches must have the same number of samples. Not for
    compressed or sampled gradients, where the mean over ranks is another, nor for a weight that several segments of
    re-entrant activation checkpointing share.

    With ``optimizer``, also of the update that an Adam-like optimizer makes: of gradients divided by √v̂ + ε of its own
    state as it was before the step, which is the noise scale that Adam's rate depends on.

    Args:
        named_parameters: (name, parameter) pairs; each name is a layer. ``model.named_parameters()``.
        optimizer: Adam-like, with ``exp_avg_sq`` in its state; None for the raw scale only.
        every: measure each so many steps; the hooks of the other steps do nothing.
        blocks: of the window.
        block_steps: measured steps in a block: longer than successive steps resemble each other.
        process_group: ranks that share a gradient; the default group where there is one.

    Raises:
        ValueError: for settings that cannot be.
        UserError: for sharded parameters.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(8, 1)
    >>> noise = NoiseScale(model.named_parameters())
    >>> for step in range(64):
    ...     model.zero_grad()
    ...     for _ in range(4):  # micro-batches of 16
    ...         x = torch.randn(16, 8)
    ...         (model(x) - x.sum(1, keepdim=True)).square().mean().div(4).backward()
    ...     noise.observe(64)
    >>> reading = noise.read()
    >>> reading.usable, sorted(reading.layers)
    (True, ['bias', 'weight'])
    >>> noise.close()
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        optimizer: torch.optim.Optimizer | None = None,
        every: int = 1,
        blocks: int = 16,
        block_steps: int = 4,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        pairs = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        self.names = [name for name, _ in pairs]
        self._parameters = [parameter for _, parameter in pairs]
        if not pairs or len(set(self.names)) < len(self.names):
            raise ValueError("A noise scale needs parameters that require gradients, each with a name of its own.")
        for name, value, least in (("every", every, 1), ("blocks", blocks, 3), ("block_steps", block_steps, 1)):
            if value % 1 != 0 or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        for name, parameter in pairs:
            if isinstance(parameter, DTensor):
                raise UserError(
                    f"The noise scale cannot be measured on {name}: it is sharded, so no rank has its own gradient.",
                    "Measure it on an unsharded model, or give norms of your own to NoiseScale.add.",
                )
        self.every, self.block_steps, self.process_group = every, block_steps, process_group
        self.preconditioner = None if optimizer is None else Preconditioner(optimizer)
        kinds, device = (1 if optimizer is None else 2), self._parameters[0].device
        # tr(Σ) and |G|² of every layer, summed over the steps of a block; one block more, which is being filled
        self._sums = torch.zeros(blocks + 1, kinds, 2, len(pairs), dtype=torch.float64, device=device)
        self._counts = torch.zeros(blocks + 1, kinds, dtype=torch.float64, device=device)
        self._steps, self._measured, self._batch = 0, 0, 1
        self._pending: list[tuple[int, list[Tensor]]] = []
        self._hooks = [p.register_hook(partial(self._seen, i)) for i, p in enumerate(self._parameters)]

    @property
    def measuring(self) -> bool:
        """Whether the step under way is one that is measured."""
        return self._steps % self.every == 0

    @torch.no_grad()
    def _seen(self, index: int, gradient: Tensor) -> None:
        if not self.measuring:
            return
        parameter = self._parameters[index]
        values, rows = _dense(gradient)
        preconditioned = None if self.preconditioner is None else self.preconditioner.norm(parameter, values, rows)
        self._pending.append((index, [_norm(values)] if preconditioned is None else [_norm(values), preconditioned]))

    @torch.no_grad()
    def observe(self, global_batch_size: int, *, loss_scale: float = 1.0) -> None:
        """Take in a step: after the last backward, before clipping, the optimizer's step and ``zero_grad``.

        Args:
            global_batch_size: samples of the step, over all ranks and micro-batches.
            loss_scale: that the backward had, and ``.grad`` no longer has, as after ``GradScaler.unscale_``.

        Raises:
            UserError: if there is one micro-batch on one rank only, or no gradient at all.
        """
        measuring, pending, self._pending = self.measuring, self._pending, []
        self._steps += 1
        if not measuring:
            return
        if not pending:
            raise UserError(
                "No gradient has arrived since the last step, so there is no noise scale to observe.",
                "Call observe once a step, after backward, with the NoiseScale built before it.",
            )
        here = max(Counter(index for index, _ in pending).values())
        count = here * self._ranks()
        if count < 2:
            raise UserError(
                "The gradient noise scale cannot be measured from one micro-batch on one rank.",
                "Split the batch into at least two micro-batches (grad_accum_steps=2), or train on two ranks.",
            )
        indices = torch.tensor([index for index, _ in pending], device=self._sums.device)
        # a hook sees 1/here of a micro-batch's own gradient; the mean over ranks is left to ``read``
        factor = here / loss_scale**2
        kinds = min(len(norms) for _, norms in pending)
        gradients = [(i, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        for kind in range(kinds):
            small = self._squares(indices, [norms[kind] for _, norms in pending])
            whole = self._squares(
                torch.tensor([i for i, _ in gradients], device=self._sums.device),
                self._whole_norms(gradients, kind),
            )
            self._add(kind, small * factor, whole, count, global_batch_size)
        self._close_step(global_batch_size)

    def _whole_norms(self, gradients: list[tuple[int, Tensor]], kind: int) -> list[Tensor]:
        parts = [_dense(gradient) for _, gradient in gradients]
        if kind == RAW or self.preconditioner is None:
            dense = [values for values, _ in parts]
            return list(torch._foreach_norm(dense, 2, _wide(*(values.dtype for values in dense))))
        norms = []
        for (index, _), (values, rows) in zip(gradients, parts, strict=True):
            norm = self.preconditioner.norm(self._parameters[index], values, rows)
            norms.append(_norm(values) if norm is None else norm)
        return norms

    def _squares(self, indices: Tensor, norms: list[Tensor]) -> Tensor:
        found = torch.zeros(len(self.names), dtype=torch.float64, device=self._sums.device)
        return found.index_add_(0, indices, torch.stack(norms).to(found).square())

    @torch.no_grad()
    def add(self, micro_squares: Tensor, batch_squares: Tensor, micro_batches: int, global_batch_size: int) -> None:
        """Take in a step by norms of your own, in the place of ``observe``; the raw scale only.

        Args:
            micro_squares: mean over all micro-batches of |gᵢ|², [layers].
            batch_squares: |ḡ|² of the whole batch, [layers].
            micro_batches: n, over all ranks.
            global_batch_size: samples of the step.
        """
        if micro_batches < 2:
            raise ValueError(f"micro_batches must be at least 2, not {micro_batches!r}.")
        self._steps += 1
        self._add(RAW, micro_squares, batch_squares, micro_batches, global_batch_size)
        self._close_step(global_batch_size)

    def _add(self, kind: int, micro: Tensor, whole: Tensor, count: int, batch: int) -> None:
        micro, whole = micro.to(self._sums), whole.to(self._sums)
        both = torch.stack([(micro - whole) * (batch / (count - 1)), (count * whole - micro) / (count - 1)])
        finite = torch.isfinite(both).all()
        block = self._block
        self._sums[block, kind] += torch.where(finite, both, 0.0)
        self._counts[block, kind] += finite

    @property
    def _block(self) -> int:
        return self._measured // self.block_steps % len(self._sums)

    def _close_step(self, batch: int) -> None:
        self._batch = batch
        self._measured += 1
        if self._measured % self.block_steps == 0:  # the oldest block makes room
            self._sums[self._block] = 0.0
            self._counts[self._block] = 0.0

    def _ranks(self) -> int:
        return dist.get_world_size(self.process_group) if dist.is_available() and dist.is_initialized() else 1

    def _over_ranks(self) -> Tensor:
        if self._ranks() == 1:
            return self._sums
        shared = self._sums.clone()
        dist.all_reduce(shared, group=self.process_group)
        return shared / self._ranks()

    def read(self, *, preconditioned: bool = False) -> NoiseReading:
        """The scale over the window's full blocks. Every rank must call it: here they exchange their sums.

        Raises:
            UserError: if every gradient of the window was not finite, or there is no optimizer to precondition with.
        """
        if preconditioned and self.preconditioner is None:
            raise UserError(
                "This NoiseScale measures no preconditioned noise.", "Give it optimizer= with an Adam-like one."
            )
        kind = PRECONDITIONED if preconditioned else RAW
        full = min(self._measured // self.block_steps, len(self._sums))
        chosen = [block for block in range(full) if block != self._block]
        sums = self._over_ranks()[chosen, kind].cpu().numpy()
        counts = self._counts[chosen, kind].cpu().numpy()
        if kind == RAW and chosen and not counts.any():
            raise UserError(
                "The noise scale cannot be measured: the gradients of the last steps are not finite.",
                "The model has diverged: go back to an earlier checkpoint, or lower the rate.",
            )
        return noise_reading(self.names, sums[counts > 0], counts[counts > 0], self._batch)

    def state_dict(self) -> dict[str, Any]:
        """The window, for a checkpoint. Every rank must call it, as ``read``."""
        return {
            "names": list(self.names), "sums": self._over_ranks().clone(), "counts": self._counts.clone(),
            "steps": self._steps, "measured": self._measured, "batch": self._batch, "block_steps": self.block_steps,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a window, perhaps on another number of ranks.

        Raises:
            ValueError: if it is of other layers or another window.
        """
        same = list(state["names"]) == self.names and state["block_steps"] == self.block_steps
        if not same or state["sums"].shape != self._sums.shape:
            raise ValueError("This state of a noise scale is of other layers, or of a window of another size.")
        self._sums.copy_(state["sums"])
        self._counts.copy_(state["counts"])
        self._steps, self._measured, self._batch = state["steps"], state["measured"], state["batch"]

    def discard(self) -> None:
        """Forget gradients of a backward that belongs to no step."""
        self._pending = []

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._pending = [], []


def _dense(gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """The values of a gradient, and which rows they are if it holds some rows only."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.values(), gradient.indices()[0]
    return gradient, None


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dtype=_wide(values.dtype))
    return norm


def _wide(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32
