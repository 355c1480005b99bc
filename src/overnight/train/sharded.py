"""Weights of which each rank has a part only (FSDP): their way into a checkpoint, out of it, and to an evaluation."""

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from overnight.comm.fully_sharded import spread, whole
from overnight.errors import UserError
from overnight.optim.trust_ratio import local
from overnight.train.average import WeightAverage
from overnight.train.build import construct
from overnight.train.components import Component

Chosen = Callable[[], AbstractContextManager[nn.Module]]
"""Gives the model to evaluate, meanwhile."""
FOLDER = "sharded"
"""Of a checkpoint: what ``torch.distributed.checkpoint`` wrote, a safetensors file a rank."""
SEEN_SECONDS = 30.0
"""A network file system may show the others late what one host has written."""


def is_spread(tensor: Tensor) -> bool:
    """Whether this rank has a part of it."""
    return hasattr(tensor, "to_local")


def check_shared(path: Path, seconds: float = SEEN_SECONDS) -> None:
    """Raise a UserError if this rank does not see what rank 0 has written; without communication."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise UserError(
                f"This host does not see {path}, and with FSDP every rank writes its own part there.",
                "Give --out on a file system that all hosts share.",
            )
        time.sleep(0.1)


def write_shards(folder: Path, shards: Mapping[str, Tensor]) -> None:
    """Each rank writes its parts; a collective.

    Raises:
        UserError: if a rank cannot write, on all of them.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(_apart(shards), storage_writer=writer)
    except CheckpointException as error:
        rank, reason = next((rank, failure[0]) for rank, failure in error.failures.items())
        if not isinstance(reason, (OSError, SafetensorError)):
            raise RuntimeError(f"rank {rank}: {reason}") from error
        said = getattr(reason, "strerror", None) or str(reason).rpartition(": ")[2]
        raise UserError(
            f"{folder.parent} cannot be written by rank {rank} ({said}).",
            "Free some space there, or make it writable; a run goes on with --resume.",
        ) from error


def _apart(shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts with a memory of their own each: safetensors refuses tied weights."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in shards.items():
        address = local(tensor).untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address and address in seen else tensor
        seen.add(address)
    return apart


def read_shards(
    folder: Path, groups: Collection[str], likes: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Tensors by group, that any number of ranks wrote.

    Args:
        folder: of the files.
        groups: which are wanted.
        likes: by ``GROUP/NAME``, in what manner this rank has them: then it reads its own parts, and all ranks must
            call. Without, whole tensors, on the CPU, by this process alone.

    Raises:
        OSError, ValueError, RuntimeError: if files are missing or damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    state: dict[str, Tensor] = {}
    for name, found in reader.read_metadata().state_dict_metadata.items():
        if name.partition("/")[0] not in groups or not isinstance(found, TensorStorageMetadata):
            continue
        dtype = found.properties.dtype
        # of the optimizer's state, whatever its key, as its parameter
        like = (likes or {}).get(name.partition(".")[0] if name.startswith("optimizer/") else name)
        fits = like is not None and is_spread(like) and like.shape == found.size
        state[name] = torch.empty_like(like, dtype=dtype) if fits else torch.empty(found.size, dtype=dtype)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            # that this process reads alone is what was asked for
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(dict(state), storage_reader=reader, no_dist=likes is None)
    except CheckpointException as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    for name, tensor in state.items():
        group, _, rest = name.partition("/")
        tensors[group][rest] = tensor
    return tensors


def read_parts(folder: Path, groups: Collection[str], likes: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``read_shards`` of this rank's parts; a collective.

    Raises:
        UserError: if they cannot be read.
    """
    try:
        return read_shards(folder, groups, likes)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"{folder} cannot be read: {said}.", "Use the checkpoint before it: --checkpoint STEP."
        ) from error


def manners(model: nn.Module, optimizer: torch.optim.Optimizer, ema: WeightAverage | None) -> dict[str, Tensor]:
    """``GROUP/NAME`` → a tensor that is spread as the one of a checkpoint should be, for weights and averages; of the
    optimizer ``optimizer/INDEX``, the parameter."""
    found = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found |= {f"optimizer/{index}": p for index, p in enumerate(parameters)}
    return found | ({f"ema/{name}": tensor for name, tensor in ema.weights.items()} if ema is not None else {})


def fit_state(optimizer: torch.optim.Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
    """A state dict with its tensors in the manner of the parameters they belong to."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(is_spread(p) for p in parameters):
        return packed
    state = {
        index: {
            key: spread(value, parameters[index])
            if isinstance(value, Tensor) and index < len(parameters) and value.shape == parameters[index].shape
            else value
            for key, value in entry.items()
        }
        for index, entry in packed["state"].items()
    }
    return packed | {"state": state}


def for_evaluation(
    model: nn.Module, component: Component, ema: WeightAverage | None, sharded: bool, main: bool
) -> Chosen:
    """What gives the model to evaluate, on rank 0: where it is sharded, this puts its weights together; a collective.

    Args:
        model: that is trained.
        component: makes another such.
        ema: stands in for its weights.
        sharded: each rank has a part of the weights.
        main: this is rank 0.
    """
    if not sharded:
        return lambda: _in_place(model, ema)
    weights = _put_together(model, ema, main)
    device = next(model.parameters()).device
    return lambda: _another(component, weights, device)


@contextmanager
def _in_place(model: nn.Module, ema: WeightAverage | None) -> Iterator[nn.Module]:
    model.eval()
    try:
        with ema.applied() if ema is not None else nullcontext():
            yield model
    finally:
        model.train()


def _put_together(model: nn.Module, ema: WeightAverage | None, main: bool) -> dict[str, Tensor]:
    names = {id(p): name for name, p in model.named_parameters()}
    # of a parameter with two names, the average has one
    first = {alias: names[id(p)] for alias, p in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Tensor] = {}
    for name, own in model.state_dict().items():
        average = ema.weights.get(first.get(name, name)) if ema is not None else None
        tensor = whole(own if average is None else average)
        if main:
            found[name] = tensor.to("cpu", own.dtype)
    return found


@contextmanager
def _another(component: Component, weights: Mapping[str, Tensor], device: torch.device) -> Iterator[nn.Module]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model: nn.Module = construct("model", component).to(device)
    model.load_state_dict(dict(weights))
    yield model.eval()
