"""The loss of one batch as a function of the weights alone: the same for the same weights, whatever is drawn in it."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from overnight.errors import UserError
from overnight.optim.trust_ratio import local_gradient


class BoostClosure:
    """Loss, gradient and Jacobian products of a batch, at the weights that the model has now.

    Every evaluation starts from the same random numbers (torch's default generators and those that modules own), and
    leaves these and all buffers (normalisation statistics among them) as it found them. Normalisation itself is that
    of the model's mode. Under DDP nothing is sent while gradients are taken and no communication hook runs: what is
    averaged over ranks is the few numbers that are made of them. No ``p.grad`` changes.

    Args:
        model: holds all parameters.
        loss: batch → mean loss, or, with ``outputs``, (outputs, batch) → mean loss.
        outputs: batch → one tensor.
        batch: this rank's part of it; parts of equal size where a mean over ranks is to be that of the whole.
        seed: of the random numbers; another on each rank.
        group: ranks whose losses are averaged; None for those of DDP, or of sharded parameters, or none.

    Calling it gives the mean loss over ranks, without gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        outputs: Callable[[Any], Tensor] | None,
        batch: Any,
        seed: int,
        group: Any = None,
    ) -> None:
        self._sharded = sharded_modules(model)
        reshard(self._sharded)
        self._called = _Called(model, loss, outputs)
        self._batch, self._seed = batch, seed
        modules = list(model.modules())
        self._buffers = [module._buffers for module in modules if module._buffers]
        self._generators = [g for module in modules for g in vars(module).values() if type(g) is torch.Generator]
        self._devices = {p.device for p in model.parameters()} - {torch.device("cpu"), torch.device("meta")}
        self._parallel = _parallel(model)
        self._groups = groups_of(model, group)
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.forwards = self.gradients = self.products = 0

    def __call__(self) -> float:
        with self._fixed(), torch.no_grad():
            loss = _scalar(self._called.loss(self._batch))
        self.forwards += 1
        return float(self.mean(loss.double().view(1)))

    def gradient(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """This rank's loss, and gradients: of a sharded parameter its part of the mean over ranks."""
        sharded = any(hasattr(p, "to_local") for p in parameters)
        with self._fixed(), torch.enable_grad():
            loss = _scalar(self._called.loss(self._batch))
            if not loss.requires_grad:
                raise UserError("The loss of the boost batch depends on no parameter.", "Let loss call the model.")
            if sharded:  # FSDP2 sums gradients up in backward only
                found = _through_backward(loss, self._called.model, parameters)
            else:
                trained = [p for p in parameters if p.requires_grad]
                given = iter(torch.autograd.grad(loss, trained, allow_unused=True))
                found = [next(given) if p.requires_grad else None for p in parameters]
        self.gradients += 1
        return loss.detach(), [g.to_dense() if g is not None and g.layout != torch.strided else g for g in found]

    def outputs(self) -> Tensor:
        """Without gradients."""
        with self._fixed(), torch.no_grad():
            found = self._called.outputs(self._batch)
        self.forwards += 1
        return found

    def product(self, tangent: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs, and the forward-mode derivative of them along a direction.

        Args:
            tangent: the direction, by the parameter's name in the model.
        """
        named = dict(self._called.model.named_parameters())
        with self._fixed(), torch.no_grad(), forward_ad.dual_level():
            dual = {f"model.{name}": forward_ad.make_dual(named[name].detach(), t) for name, t in tangent.items()}
            try:
                value, product = forward_ad.unpack_dual(functional_call(self._called, dual, (self._batch,)))
            except (NotImplementedError, RuntimeError) as error:
                if not re.search("forward.*(AD|mode)|jvp", str(error)):
                    raise
                raise UserError(
                    f"The model has an operation without forward-mode derivative: {str(error).splitlines()[0]}",
                    'Use GaussNewton(products="differences").',
                ) from error
        self.products += 1
        return value, torch.zeros_like(value) if product is None else product

    def gauss_newton(self, outputs: Tensor, products: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [1], slopes vᵢ · ∂L [C] and matrix vᵢ · ∂²L · vⱼ [C, C] for products v; this rank's, float64."""
        point = outputs.detach().requires_grad_()
        with self._fixed(), torch.enable_grad():
            loss = _scalar(self._called.criterion(point, self._batch))
            (slope,) = torch.autograd.grad(loss, point, create_graph=True)
            curved = [self._second(slope, point, product.view_as(point)) for product in products]
        v = torch.stack([product.flatten().double() for product in products])
        matrix = v @ torch.stack([c.flatten().double() for c in curved]).t()
        return loss.detach().double().view(1), v @ slope.detach().flatten().double(), (matrix + matrix.t()) / 2

    @staticmethod
    def _second(slope: Tensor, point: Tensor, along: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(point)
        (found,) = torch.autograd.grad(slope, point, along.to(point.dtype), retain_graph=True, allow_unused=True)
        return torch.zeros_like(point) if found is None else found

    def mean(self, numbers: Tensor) -> Tensor:
        """Over ranks, in place; then on the CPU."""
        for group in self._groups:
            dist.all_reduce(numbers, group=group)
            numbers /= dist.get_world_size(group)
        return numbers.cpu()

    @contextlib.contextmanager
    def _fixed(self) -> Iterator[None]:
        states = [g.get_state() for g in self._generators]
        buffers = [
            (places, name, buffer, buffer.detach().clone())
            for places in self._buffers
            for name, buffer in places.items()
            if buffer is not None
        ]
        reshard(self._sharded)
        torch.clear_autocast_cache()  # which does not see that weights have moved
        with contextlib.ExitStack() as stack:
            for parallel in self._parallel:
                stack.enter_context(parallel.no_sync())
                reducer = parallel if isinstance(parallel, DistributedDataParallel) else parallel.reducer
                if reducer is not None:
                    stack.callback(setattr, reducer, "require_forward_param_sync", reducer.require_forward_param_sync)
            kind = next(iter(self._devices)).type if self._devices else "cuda"
            indices = sorted(device.index or 0 for device in self._devices)
            stack.enter_context(torch.random.fork_rng(indices, device_type=kind))
            torch.default_generator.manual_seed(self._seed)
            for index in indices:
                module = torch.get_device_module(kind)
                with module.device(index):
                    module.manual_seed(self._seed)
            try:
                yield
            finally:
                with torch.no_grad():
                    for where, name, buffer, kept in buffers:
                        where[name] = buffer
                        buffer.copy_(kept)
                for generator, state in zip(self._generators, states, strict=True):
                    generator.set_state(state)
                torch.clear_autocast_cache()
                reshard(self._sharded)


def sharded_modules(model: nn.Module) -> list[Any]:
    """Those of FSDP2."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # not imported: it takes half a second
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def reshard(modules: Sequence[Any]) -> None:
    """Free what FSDP2 has gathered: the next forward pass would take it for the weights, which have moved."""
    for module in modules:
        module.reshard()


class _Called(nn.Module):
    """What the user gave, as a module that holds the model, so that its parameters can be replaced for one call."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], outputs: Callable[[Any], Tensor] | None) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self.criterion, self._outputs = loss, outputs

    def outputs(self, batch: Any) -> Tensor:
        assert self._outputs is not None
        found = self._outputs(batch)
        if not isinstance(found, Tensor):
            raise UserError(f"outputs returned a {type(found).__name__}.", "Let it return one tensor.")
        return found

    def loss(self, batch: Any) -> Tensor:
        return self.criterion(batch) if self._outputs is None else self.criterion(self.outputs(batch), batch)

    forward = outputs


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"loss returned a {what}, not one number.", "Let it return the mean loss of the batch.")
    found: Tensor = loss.full_tensor() if hasattr(loss, "full_tensor") else loss
    return found.reshape(())


def _through_backward(loss: Tensor, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    everything = {id(p): p for p in [*model.parameters(), *parameters]}.values()
    kept = [p.grad for p in everything]
    for p in everything:
        p.grad = None
    try:
        loss.backward()
        return [None if p.grad is None else local_gradient(p) for p in parameters]
    finally:
        for p, grad in zip(everything, kept, strict=True):
            p.grad = grad


def _parallel(model: nn.Module) -> list[Any]:
    """DDP, and what has one inside and exchanges gradients in its own way (``overnight.comm.sampled_parallel``)."""
    said = ("no_sync", "process_group", "reducer")
    return [module for module in model.modules() if all(hasattr(module, name) for name in said)]


def groups_of(model: nn.Module, group: Any = None) -> list[Any]:
    """Groups of ranks, over which one after the other a mean is that over all.

    Raises:
        UserError: if there are several ranks and nothing says which train together: each would choose coefficients of
            its own.
    """
    parallel = _parallel(model)
    if group is not None or parallel:
        return [parallel[0].process_group if group is None else group]
    parameters: list[Any] = list(model.parameters())
    for p in parameters:
        if hasattr(p, "to_local"):
            mesh = p.device_mesh
            return [mesh.get_group(dim) for dim in range(mesh.ndim)]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(
            f"There are {dist.get_world_size()} ranks, and the model is not wrapped for them.",
            "Give SEBoost the wrapped model, or process_group= (of one rank, if each trains alone).",
        )
    return []
