"""A training state in memory, to go back to."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Stateful(Protocol):
    """What else must go back: an average of weights, a recurrent state, a GradScaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Snapshot:
    """Copies of tensors, of an optimizer's state and options, and of other states; ``restore`` puts them back in place.

    Args:
        tensors: parameters and buffers.
        optimizer: whose state.
        others: whose ``state_dict``.
        device: where the copies lie; ``cpu`` spares a GPU's memory. None leaves them where they are.
    """

    @torch.no_grad()
    def __init__(
        self,
        tensors: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        others: Iterable[Stateful] = (),
        device: torch.device | str | None = None,
    ) -> None:
        self._tensors, self._optimizer, self._others = tensors, optimizer, list(others)
        self._values = [_copied(tensor, device) for tensor in tensors]
        self._state = {
            parameter: {name: _copied(value, device) for name, value in state.items()}
            for parameter, state in optimizer.state.items()
        }
        self._options = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        self._kept = [_tree(other.state_dict(), device) for other in self._others]

    @torch.no_grad()
    def restore(self) -> None:
        """As it was; may be done again."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        now = self._optimizer.state
        for parameter in list(now):
            if parameter not in self._state:
                del now[parameter]
        for parameter, saved in self._state.items():
            kept = now[parameter] = now.get(parameter, {})
            for name in [name for name in kept if name not in saved]:
                del kept[name]
            for name, value in saved.items():
                old = kept.get(name)
                if isinstance(value, Tensor) and isinstance(old, Tensor) and old.shape == value.shape:
                    old.copy_(value)  # in place: a captured graph may hold it
                elif isinstance(value, Tensor):
                    kept[name] = value.to(parameter.device if value.dim() else value.device, copy=True)
                else:
                    kept[name] = copy.deepcopy(value)
        for group, options in zip(self._optimizer.param_groups, self._options, strict=True):
            group.update(copy.deepcopy(options))
        for other, state in zip(self._others, self._kept, strict=True):
            other.load_state_dict(_tree(state, None))


def _copied(value: Any, device: torch.device | str | None) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(value.device if device is None else device, copy=True)
    return copy.deepcopy(value)


def _tree(value: Any, device: torch.device | str | None) -> Any:
    if isinstance(value, dict):
        return {name: _tree(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_tree(item, device) for item in value)
    return _copied(value, device)
