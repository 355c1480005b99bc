"""What LARS and LAMB share: checks, state, gradients, buckets of layers, and norms over ranks. Not for users."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once
from torch.optim import Optimizer

from overnight.optim.state_check import check_state
from overnight.optim.trust_ratio import (
    Sharding,
    block_of_rows,
    block_squares,
    dense,
    in_parallel,
    local,
    local_gradient,
    sharding,
)

Number = float | Tensor


@dataclass(slots=True)
class Layer:
    """One parameter in a step, as this rank holds it.

    Attributes:
        parameter: what the user has.
        weight: what is updated: the parameter, this rank's part of it, or its float32 master copy.
        grad: of the same part.
        state: this rank's part of the optimizer state.
        step: how many updates, with this one.
        where: the other parts.
        block_of: row block of each row, where the layer has more than one.
    """

    parameter: Tensor
    weight: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    step: Tensor
    where: Sharding
    block_of: Tensor | None

    @property
    def state_dtype(self) -> torch.dtype:
        """float32 for a low-precision parameter; what the arithmetic is done in."""
        return next(iter(self.state.values())).dtype

    def cut(self, scale: Tensor) -> Tensor:
        """A number a row block, in a shape and dtype that multiply the state."""
        if self.block_of is None or scale.numel() == 1:
            return scale[0].to(self.state_dtype)
        return scale[self.block_of].view(-1, *[1] * (self.weight.dim() - 1)).to(self.state_dtype)


Bucket = list[Layer]


def low_precision(parameter: Tensor) -> bool:
    """Whether the state beside it is float32 all the same."""
    return parameter.dtype in (torch.bfloat16, torch.float16)


class Layerwise(Optimizer):
    """An optimizer whose step is scaled layer by layer.

    State of a bfloat16 or float16 parameter is float32, and so is the arithmetic.
    """

    state_names: ClassVar[tuple[str, ...]]
    variants: ClassVar[dict[Any, dict[str, Any]]]

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._scratch: dict[Any, Any] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; nothing is added if it cannot work. A variant that it names counts as one of the constructor."""
        for variant, changes in self.variants.items():
            if variant == param_group.get("variant"):
                for name, value in changes.items():
                    param_group.setdefault(name, value)
        for name in param_group.keys() - self.defaults.keys() - {"params", "param_names"}:
            near = difflib.get_close_matches(name, self.defaults, n=1, cutoff=0.75)
            if near and near[0] not in name:  # torch lets any name pass, and what is misspelt would be ignored
                raise ValueError(f"{name!r} is not a setting of {type(self).__name__}; did you mean {near[0]!r}?")
        parameters = param_group["params"]
        if not isinstance(parameters, (Tensor, set)):  # torch refuses sets, which have no order
            param_group["params"] = parameters = list(parameters)
            if not parameters and not in_parallel():  # a rank of ZeroRedundancyOptimizer can have none of a group
                raise ValueError(f"Parameter group {len(self.param_groups)} is empty.")
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        check_number("lr", group["lr"])
        check_number("weight_decay", group["weight_decay"])
        blocks = group["blocks"]
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
            raise ValueError(f"blocks={blocks!r} must be a whole number of at least 1.")
        check_flags(group, "adapt", "maximize", "capturable", "master_weights")
        check_flags(group, "foreach", "fused", unset=True)
        if group["foreach"] and group["fused"]:
            raise ValueError("foreach=True and fused=True exclude each other.")
        for p in group["params"]:
            if p.is_complex():
                raise ValueError(f"A complex parameter ({p.dtype}) is not supported; give torch.view_as_real of it.")
            if not p.is_floating_point():
                raise ValueError(f"A parameter of {p.dtype} cannot be trained.")
            if blocks > 1 and (p.dim() < 1 or p.shape[0] % blocks):
                raise ValueError(f"blocks={blocks} does not divide the rows of a parameter of shape {tuple(p.shape)}.")

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_disable_dynamo  # torch.compile cannot trace the fused kernels: in what it compiles, the step runs as it is
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one update.

        Args:
            closure: computes the loss and its gradients again.

        Raises:
            ValueError: for a sparse gradient or row blocks that cannot be, before anything is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = [(group, self._with_gradients(group)) for group in self.param_groups]
        groups = [(group, self._layers(group, parameters)) for group, parameters in found]
        scales = self._gradient_scales(groups)
        # the largest tensor bounds the temporary memory of a bucket
        limit = max((p.numel() for group in self.param_groups for p in group["params"]), default=0)
        for (group, layers), scale in zip(groups, scales, strict=True):
            for bucket in buckets(layers, limit, partial(self._unbounded, group)):
                self._update(bucket, group, scale)
                masters = [layer for layer in bucket if layer.weight.dtype != layer.parameter.dtype]
                if masters:
                    parameters = [local(layer.parameter) for layer in masters]
                    torch._foreach_copy_(parameters, [layer.weight for layer in masters])
        return loss

    def _unbounded(self, group: dict[str, Any], layer: Layer) -> bool:
        """Whether the update of the layer takes no temporary memory, so that a bucket may be of any size."""
        return False

    def _gradient_scales(self, groups: Sequence[tuple[dict[str, Any], list[Layer]]]) -> list[Tensor | None]:
        """What the gradients of each group are multiplied by, where that depends on all of them."""
        return [None] * len(groups)

    def _update(self, bucket: Bucket, group: dict[str, Any], gradient_scale: Tensor | None) -> None:
        raise NotImplementedError

    def _with_gradients(self, group: dict[str, Any]) -> list[tuple[Tensor, Sharding]]:
        found = []
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise ValueError(
                    f"{type(self).__name__} does not take sparse gradients, which have no norm of the whole layer; "
                    "make the embedding dense (sparse=False) or give it to torch.optim.SparseAdam."
                )
            if hasattr(p, "to_local") != hasattr(p.grad, "to_local"):
                raise ValueError(f"A parameter is a {type(p).__name__} and its gradient a {type(p.grad).__name__}.")
            found.append((p, sharding(p, group["blocks"])))
        return found

    def _layers(self, group: dict[str, Any], parameters: Sequence[tuple[Tensor, Sharding]]) -> list[Layer]:
        layers = []
        for p, where in parameters:
            state = self.state[p]
            if not state:
                self._start(state, p, group)
            weight = local(state.get("master", p))
            parts = {name: local(state[name]) for name in self.state_names}
            block_of = None
            if group["blocks"] > 1:
                block_of = block_of_rows(weight, p.shape[0], group["blocks"], where)
            layers.append(Layer(p, weight, local_gradient(p), parts, state["step"], where, block_of))
        if layers:
            torch._foreach_add_([layer.step for layer in layers], 1.0)
        return layers

    def _start(self, state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
        dtype = torch.float32 if low_precision(p) else p.dtype
        device = p.device if group["capturable"] else None
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for name in self.state_names:
            state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if group["master_weights"] and low_precision(p):
            state["master"] = p.detach().to(torch.float32)

    def load_state_dict(self, state_dict: Any) -> None:
        """Load what ``state_dict()`` gave.

        Raises:
            ValueError: for the state of another optimizer, of other parameter groups or with settings that cannot
                work; nothing is changed.
        """
        check_state(self, state_dict)
        for theirs, ours in zip(state_dict["param_groups"], self.param_groups, strict=True):
            self._check_group({**ours, **theirs, "params": ours["params"]})
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        mine = [(p, group) for group in self.param_groups for p in group["params"]]
        for key, (p, group) in zip(saved, mine, strict=True):
            if key not in state_dict["state"]:
                continue
            if not group["capturable"]:  # torch takes the step to the device where fused=True
                self.state[p]["step"] = self.state[p]["step"].cpu()
            if low_precision(p):  # and casts the rest to the dtype of the parameter
                for name, value in state_dict["state"][key].items():
                    if name != "step":
                        self.state[p][name] = value.to(p.device, torch.float32, copy=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it here; no setting of ours, so no group has it
        self._scratch = {}
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_scratch"}

    def _scratch_like(self, x: Tensor, size: int, name: str = "") -> Tensor:
        """Memory that is kept between steps: the pages of a fresh one would cost as much as the step."""
        key = (name, x.device, x.dtype)
        if key not in self._scratch or self._scratch[key].numel() < size:
            self._scratch[key] = torch.empty(size, dtype=x.dtype, device=x.device)
        memory: Tensor = self._scratch[key]
        return memory[:size]


def buckets(layers: Iterable[Layer], limit: int, unbounded: Callable[[Layer], bool]) -> Iterator[Bucket]:
    """Layers of one device, dtype and sharding together, of at most ``limit`` elements in all, or all unbounded."""
    filling: dict[Any, Bucket] = {}
    sizes: dict[Any, int] = {}
    for layer in layers:
        free = unbounded(layer)
        key = (layer.weight.device, layer.weight.dtype, layer.grad.dtype, layer.where.groups, free)
        size = 0 if free else layer.parameter.numel()
        if sizes.get(key, 0) + size > limit and filling.get(key):
            yield filling.pop(key)
            sizes[key] = 0
        filling.setdefault(key, []).append(layer)
        sizes[key] = sizes.get(key, 0) + size
    yield from filling.values()


def squares(bucket: Bucket, tensors: Sequence[Tensor], blocks: int) -> list[Tensor]:
    """‖·‖² of each layer's tensor by row block, over all its shards: float64, [blocks] each."""
    if not bucket:
        return []
    here = torch.stack([block_squares(x, layer.block_of, blocks) for layer, x in zip(bucket, tensors, strict=True)])
    return list(bucket[0].where.total(here))


def both_squares(
    bucket: Bucket, first: Sequence[Tensor], second: Sequence[Tensor], blocks: int
) -> list[tuple[Tensor, Tensor]]:
    """``squares`` of two tensors of each layer, with one collective for them all."""
    here = [
        torch.stack([block_squares(x, layer.block_of, blocks) for x in pair])
        for layer, *pair in zip(bucket, first, second, strict=True)
    ]
    return [(one, other) for one, other in bucket[0].where.total(torch.stack(here))]


def gradients(
    bucket: Bucket, group: dict[str, Any], scale: Tensor | None, normalise: bool = False
) -> tuple[list[Tensor], bool]:
    """The gradients in the dtype of the state: scaled, with the sign of the descent, divided by their norms if asked.

    Returns:
        The gradients, and whether they are copies, which may be written to.
    """
    found = [layer.grad for layer in bucket]
    factors: list[Number] = [-1.0 if group["maximize"] else 1.0] * len(bucket)
    if scale is not None:
        factors = [factor * scale.to(g.device) for factor, g in zip(factors, found, strict=True)]
    if normalise:
        norms = [total.sqrt() for total in squares(bucket, found, group["blocks"])]
        norms = [layer.cut(torch.where(norm == 0, 1.0, norm)) for layer, norm in zip(bucket, norms, strict=True)]
        factors = [factor / norm for factor, norm in zip(factors, norms, strict=True)]
    dtype = bucket[0].state_dtype
    own = found[0].dtype != dtype or normalise or scale is not None or group["maximize"]
    if own:
        found = [(g.to(dtype) * factor).to(dtype) for g, factor in zip(found, factors, strict=True)]
    return found, own


def choose_fused(bucket: Bucket, group: dict[str, Any], possible: bool = True) -> bool:
    """Whether the two-pass step is wanted and can work on this bucket. Where it cannot, the others do."""
    if group["fused"] is False or (group["fused"] is None and group["foreach"] is not None):
        return False
    return possible and not group["capturable"] and all(_fusable(layer) for layer in bucket)


def choose_foreach(bucket: Bucket, group: dict[str, Any]) -> bool:
    """Whether many tensors are to be updated by one call, where they are not fused."""
    if bucket[0].where.groups and (group["fused"] or group["foreach"] is None):
        return True  # it makes the same collectives as the two-pass step, which other ranks' shards may allow
    if group["foreach"] is None:
        return bucket[0].weight.device.type != "cpu"
    return bool(group["foreach"])


def _fusable(layer: Layer) -> bool:
    w = layer.weight
    tensors = (layer.grad, *layer.state.values())
    return (
        w.device.type == "cpu"
        and w.dtype in (torch.float32, torch.float64)
        and layer.block_of is None
        and all(x.stride() == w.stride() for x in tensors)
        and (w.is_contiguous() or dense(w).data_ptr() == w.data_ptr())  # no gaps
    )


def move(layer: Layer, group: dict[str, Any], *steps: tuple[Tensor, Tensor]) -> None:
    """w ← w - Σ rate · direction, for (direction, rate) pairs with a rate for each row block."""
    weight = layer.weight.to(layer.state_dtype)  # itself, but for a low-precision weight without a master copy
    for direction, rate in steps:
        if layer.block_of is None and not group["capturable"] and weight.device.type == "cpu":
            weight.add_(direction, alpha=-float(rate))
        else:
            weight.addcmul_(direction, layer.cut(rate), value=-1)
    if weight is not layer.weight:
        layer.weight.copy_(weight)  # the one rounding of the step


def as_number(value: Number, capturable: bool) -> Number:
    """A rate that is a tensor on the CPU, as a float; on a device it stays there, so that nothing waits for it."""
    if isinstance(value, Tensor) and not capturable and value.device.type == "cpu":
        return float(value)
    return value


def check_number(name: str, value: Any, below: float = math.inf) -> None:
    """Raise a ValueError unless 0 ≤ value < below. A tensor on a device is not read."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} is a tensor of {value.numel()} elements; it must be one number.")
        if value.device.type != "cpu":
            return
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < below:
        limit = f" and below {below:g}" if below != math.inf else " and finite"
        raise ValueError(f"{name}={value!r} must be a number of at least 0{limit}.")


def check_flags(group: dict[str, Any], *names: str, unset: bool = False) -> None:
    """Raise a ValueError unless they are True or False, or None where they may be ``unset``."""
    for name in names:
        if not (isinstance(group[name], bool) or (unset and group[name] is None)):
            raise ValueError(f"{name}={group[name]!r} must be True{',' if unset else ' or'} False{' or None' * unset}.")


def check_bounds(name: str, value: Any) -> None:
    """Raise a ValueError unless it is (lower, upper) with 0 ≤ lower ≤ upper."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not 0 <= value[0] <= value[1]:
        raise ValueError(f"{name}={value!r} must be (lower, upper) with 0 <= lower <= upper.")
