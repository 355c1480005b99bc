"""Checkpoints: everything a run needs to go on bit for bit (docs/run-folder.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from overnight.comm.fully_sharded import spread
from overnight.errors import UserError
from overnight.train import sharded
from overnight.train.folder import remove_folder, verify_folder, write_folder, write_json


@dataclass(frozen=True)
class Checkpoint:
    """A training state: tensors by group, and plain data.

    Attributes:
        model: the model's state dict.
        optimizer: optimizer state, flat (see ``flatten_optimizer``).
        carry: recurrent state by global lane.
        rng: generator states, first dimension the rank.
        state: step, samples, and whatever else is plain data.
        ema: the average of the weights, of a run that has one.
        parallel: what ranks have not exchanged yet, and the like, of a run with a way of its own to train on several.
        shards: as ``GROUP/NAME``, tensors of which each rank has a part; each writes its own.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    carry: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Any]
    ema: Mapping[str, Tensor] = field(default_factory=dict)
    parallel: Mapping[str, Tensor] = field(default_factory=dict)
    shards: Mapping[str, Tensor] = field(default_factory=dict)


GROUPS = ("model", "optimizer", "carry", "rng", "ema", "parallel")
WHERE_ANY = ("ema", "parallel")
"""Groups that have a file only where there is something in them."""


def checkpoint_path(folder: Path, checkpoint: Checkpoint) -> Path:
    """Where it belongs."""
    return folder / f"{checkpoint.state['step']:08d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep_last: int, aside: Path | None = None) -> Path:
    """Write ``folder/<step>``, mark it if it is the best, then remove all but the best and the last ``keep_last``.

    Args:
        folder: of all checkpoints.
        checkpoint: all but its shards is written.
        keep_last: besides the best.
        aside: where the ranks have written their shards (``folder.begin_folder``).

    Raises:
        UserError: if it cannot be written; the checkpoints before it are as they were.
    """

    def fill(aside: Path) -> None:
        for group in GROUPS:
            tensors = _apart(getattr(checkpoint, group))
            if tensors or group not in WHERE_ANY:
                save_file(tensors, aside / f"{group}.safetensors")
        (aside / "state.json").write_text(json.dumps(dict(checkpoint.state), indent=1) + "\n", encoding="utf-8")

    path = checkpoint_path(folder, checkpoint)
    write_folder(path, fill, aside)
    _follow_best(folder, checkpoint.state.get("best"))
    best = best_step(folder)
    for old in list_checkpoints(folder)[:-keep_last]:
        if int(old.name) != best:
            remove_folder(old)
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, each with a memory of its own: safetensors refuses tied weights."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address and address in seen else tensor
        seen.add(address)
    return apart


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()), key=_step)


def _step(path: Path) -> int:
    return int(path.name)


def best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, if one was marked."""
    try:
        return int(json.loads((folder / "best.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_best(folder: Path, best: Mapping[str, Any]) -> None:
    """Say which checkpoint is the best so far: its step, and its value of the run's metric."""
    write_json(folder / "best.json", dict(best))


def _follow_best(folder: Path, best: Mapping[str, Any] | None) -> None:
    """Let best.json say what a training state says, if that checkpoint is there to be used."""
    if best is not None and best["step"] != best_step(folder) and (folder / f"{best['step']:08d}").is_dir():
        mark_best(folder, best)


def drop_after(folder: Path, step: int, best: Mapping[str, Any] | None) -> None:
    """Remove what comes after a checkpoint that a run goes on from: its steps are about to be made again."""
    for path in list_checkpoints(folder):
        if int(path.name) > step:
            remove_folder(path)
    marked = best_step(folder)
    if marked is not None and (best is None or marked > step):
        (folder / "best.json").unlink(missing_ok=True)
    _follow_best(folder, best)


def choose_checkpoint(run: Path, which: str) -> Path:
    """The folder of checkpoint ``best``, ``last`` or a step number of a run.

    Raises:
        UserError: if the run has none such; it lists those there are.
    """
    folder = run / "checkpoints"
    found = list_checkpoints(folder)
    if not found:
        if not (run / "run.json").is_file():
            raise UserError(f"{run} is not a run folder (it has no run.json).", "Give the --out folder of a run.")
        raise UserError(f"{run} has no checkpoint yet.", "Wait for the first, or start the run again.")
    if which == "last":
        return found[-1]
    if which == "best":
        best = best_step(folder)
        return next((path for path in found if int(path.name) == best), found[-1])
    chosen = [path for path in found if which.isdigit() and int(path.name) == int(which)]
    if not chosen:
        steps = ", ".join(str(int(path.name)) for path in found)
        raise UserError(f"{run} has no checkpoint {which!r}.", f"Choose best, last or one of {steps}.")
    return chosen[0]


def load_checkpoint(path: Path, groups: tuple[str, ...] = GROUPS, shards: bool = True) -> Checkpoint:
    """Read a checkpoint, after checking its digests.

    Args:
        path: its folder.
        groups: those that are wanted.
        shards: read what the ranks of a sharded run wrote too, as whole tensors.

    Raises:
        UserError: if a file is missing, truncated or altered; it names the checkpoint and the one before it.
    """
    problem = verify_folder(path)
    if problem is None:
        try:
            files = {group: path / f"{group}.safetensors" for group in GROUPS}
            absent = [group for group in WHERE_ANY if not files[group].exists()]
            read = {g: load_file(file) if g in groups and g not in absent else {} for g, file in files.items()}
            if shards and is_sharded(path):
                for group, tensors in sharded.read_shards(path / sharded.FOLDER, groups).items():
                    read[group] |= tensors
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(**read, state=state)
        except (OSError, ValueError, SafetensorError) as error:
            problem = str(error)
    before = [int(other.name) for other in list_checkpoints(path.parent) if int(other.name) < int(path.name)]
    remedy = f"Use the one before it: --checkpoint {before[-1]}." if before else "There is none before it; start anew."
    raise UserError(f"Checkpoint {path} is damaged: {problem}.", remedy)


def is_sharded(path: Path) -> bool:
    """Whether the ranks wrote a checkpoint each its part."""
    return (path / sharded.FOLDER).is_dir()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict strictly.

    Raises:
        UserError: if the checkpoint is of another architecture, naming the first weight that differs.
    """
    own = model.state_dict()
    for name in [*own, *weights]:
        ours = tuple(own[name].shape) if name in own else "absent"
        theirs = tuple(weights[name].shape) if name in weights else "absent"
        if ours != theirs:
            raise UserError(
                f"Checkpoint {path} is of another architecture: {name} is {theirs} there and {ours} in this model.",
                "Use the settings that the checkpoint was trained with (its run.json has them).",
            )
    model.load_state_dict({name: spread(tensor, own[name]) for name, tensor in weights.items()})


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as named tensors and plain data, so that no pickle is needed."""
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "param_groups": []}
    for index, entry in packed["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain["state"].setdefault(str(index), {})[key] = _plain(optimizer, key, value)
    for number, group in enumerate(packed["param_groups"]):
        kept = {key: _plain(optimizer, key, value) for key, value in group.items() if not isinstance(value, Tensor)}
        plain["param_groups"].append(kept)
        tensors.update({f"group.{number}.{key}": value for key, value in group.items() if isinstance(value, Tensor)})
    return tensors, plain


def _plain(optimizer: torch.optim.Optimizer, key: str, value: Any) -> Any:
    try:
        json.dumps(value)
    except TypeError:
        name = type(optimizer).__name__
        raise UserError(
            f"{name} keeps {key!r} as a {type(value).__name__}, which a checkpoint cannot hold without a pickle.",
            "Choose an optimizer whose state is tensors and plain numbers.",
        ) from None
    return value


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that ``flatten_optimizer`` took apart."""
    state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in plain["state"].items()}
    groups = [dict(group) for group in plain["param_groups"]]
    for name, tensor in tensors.items():
        head, _, key = name.partition(".")
        if head == "group":
            number, _, key = key.partition(".")
            groups[int(number)][key] = tensor
        else:
            state.setdefault(int(head), {})[key] = tensor
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    return {"state": state, "param_groups": groups}


@dataclass(frozen=True)
class LoadedModel:
    """A trained model for use: in eval mode, on the CPU, with the run.json it came from."""

    model: nn.Module
    run: dict[str, Any]
    step: int
    corpus: Path | None


def load_model(run: str | Path, which: str = "best") -> LoadedModel:
    """The model of a run folder, with the average of its weights where the run kept one.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or a step.

    Raises:
        UserError: if the folder is no run, has no such checkpoint, the checkpoint is damaged, or run.json names
            something that is not a model of overnight or torch.
    """
    from overnight.train.components import from_json

    run = Path(run)
    path = choose_checkpoint(run, which)
    settings = read_run_json(run)
    checkpoint = load_checkpoint(path, ("model", "ema"))
    build = from_json(settings["run"]["model"])
    if not (isinstance(build, partial) and isinstance(build.func, type) and issubclass(build.func, nn.Module)):
        raise UserError(f"{run / 'run.json'} does not name a model.", "Restore it from a copy.")
    model: nn.Module = build()
    # an average without some of the weights has those as they are
    load_weights(model, {**checkpoint.model, **_of_dtype(checkpoint.ema, checkpoint.model)}, path)
    corpus = settings["run"].get("data", {}).get("kwargs", {}).get("corpus")
    return LoadedModel(model.eval(), settings, int(checkpoint.state["step"]), Path(corpus) if corpus else None)


def _of_dtype(average: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(weights[name].dtype) for name, tensor in average.items() if name in weights}


def read_run_json(run: Path) -> dict[str, Any]:
    """run.json of a run folder, or a file like it of any name.

    Raises:
        UserError: if it is missing, unreadable, or of another format.
    """
    from overnight.train.run import FORMAT

    path = run if run.is_file() else run / "run.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = settings.get("format")
    except FileNotFoundError:
        raise UserError(f"{run} is not a run folder (it has no run.json).", "Give the --out folder of a run.") from None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Restore it from a copy.") from None
    if found == FORMAT and not isinstance(settings.get("run"), dict):
        raise UserError(f"{path} does not hold a run.", "Restore it from a copy.")
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}; this version reads {FORMAT!r}.", "Use the one that wrote it.")
    return settings
