"""Rows that a forward needs, found when it comes to them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm.asynchronous.gradients import Gradients
from overnight.comm.plan import Rows
from overnight.comm.row_sets import SampledRows
from overnight.errors import UserError

Need = Callable[[str, Tensor], None]
"""(name of a parameter, ids of rows) → they are pulled."""


def needs(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], rows: Sequence[str], gradients: Gradients, need: Need
) -> tuple[set[str], list[Any]]:
    """Parameters of which only needed rows are pulled, and handles of the hooks that do it.

    An embedding needs the rows of its ids. An output layer that samples, with a ``Rows`` rule, takes the frequent and
    drawn rows of the plan as its samples, and needs these and its targets'. A parameter that any other module uses is
    needed whole.

    Raises:
        UserError: for an output layer under a rule of rows that draws with replacement.
    """
    names = {id(parameter): name for name, parameter in parameters.items() if name in rows}
    found: dict[str, list[tuple[nn.Module, Callable[..., Any]]]] = {name: [] for name in names.values()}
    whole: set[str] = set()
    for module in model.modules():
        own = [names[id(p)] for p in module.parameters(recurse=False) if id(p) in names]
        if not own:
            continue
        if _looks_up(module):
            hook: Callable[..., Any] | None = partial(_before_embedding, need, own[0])
        elif hasattr(module, "sampler") and hasattr(module, "samples") and _by_plan(own, gradients):
            hook = partial(_before_output, need, own, _take_samples(module, own[0], gradients))
        else:
            hook = None
        for name in own:
            if hook is None:
                whole.add(name)
            else:
                found[name].append((module, hook))
    asked = {name for name, uses in found.items() if uses and name not in whole}
    # a layer's weight and bias have one hook
    hooks = {id(module): (module, hook) for name in asked for module, hook in found[name]}
    return asked, [
        module.register_forward_pre_hook(partial(_only, asked, hook), with_kwargs=True)
        for module, hook in hooks.values()
    ]


def _only(asked: set[str], hook: Callable[..., None], module: nn.Module, args: Any, kwargs: Any) -> None:
    hook(asked, module, *args, **kwargs)


def _looks_up(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return module.max_norm is None
    return hasattr(module, "vocab_size") and hasattr(module, "width") and hasattr(module, "sparse")


def _by_plan(own: Sequence[str], gradients: Gradients) -> bool:
    return all(isinstance(gradients.plan.rule(name), Rows) for name in own)


def _take_samples(module: Any, name: str, gradients: Gradients) -> SampledRows:
    if not getattr(module, "unique", True):
        raise UserError(
            f"The output layer of {name} draws with replacement, the plan's rows are drawn without.",
            "Make it with unique=True, or leave it out of the plan.",
        )
    rows = SampledRows(partial(gradients.row_set, name), len(gradients.parameters[name]))
    module.sampler, module.samples = rows, rows.count
    return rows


def _before_embedding(need: Need, name: str, asked: set[str], module: nn.Module, ids: Tensor, *_: Any) -> None:
    if name in asked:
        need(name, ids)


def _before_output(
    need: Need, own: Sequence[str], samples: SampledRows, asked: set[str], module: nn.Module, h: Tensor, targets: Tensor
) -> None:
    if not module.training:
        return
    ids_R = torch.cat([samples.rows().ids_R, targets.detach().flatten().cpu()])
    for name in own:
        if name in asked:
            need(name, ids_R)
