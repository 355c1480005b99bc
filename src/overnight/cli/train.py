"""`overnight train`: a recipe, a run folder to resume, or a run.json to run again."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from overnight.errors import UserError

USAGE = """usage: overnight train RECIPE [ARGUMENTS]      train (overnight train RECIPE --help shows what it takes)
       overnight train RUN --resume           go on with a run
       overnight train RUN/run.json --out NEW that run again

Recipes: {recipes} (overnight list says more)."""


@dataclass(frozen=True)
class Launch:
    """What every recipe takes beside its own arguments."""

    out: Annotated[Path | None, tyro.conf.arg(help="Run folder to make; runs/RECIPE-DATE unless given.")] = None
    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME=VALUE", help="Change any setting of the run, e.g. optimizer.weight_decay=0.1."),
    ] = ()
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Go on with the run in the folder.")] = (
        False
    )
    checkpoint: Annotated[str, tyro.conf.arg(help="Resume from: last, best or a step.")] = "last"
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda.")] = "auto"
    tensorboard: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Write TensorBoard event files too.")
    ] = False


def main(argv: list[str]) -> int:
    """Parse, train, and say what came of it."""
    from overnight.recipes import RECIPES, find

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(RECIPES)))
        return 0
    target, rest = argv[0], argv[1:]
    if target in RECIPES or not Path(target).exists():
        launch, build = _parse_recipe(target, find(target), rest)
        run, folder = None, launch.out
    else:
        launch = tyro.cli(Launch, args=rest, prog=f"overnight train {target}", description="Resume or repeat a run.")
        run, folder = _from_folder(Path(target), launch)
        build = None
    if folder is None:
        folder = _default_folder(target)

    from overnight.train.distributed import restarted_by_torchrun
    from overnight.train.launch import Options, train
    from overnight.train.run import Run

    resume = launch.resume or (restarted_by_torchrun() and (folder / "run.json").is_file())
    if build is not None:
        if resume:
            from overnight.train.checkpoint import read_run_json

            run = Run.from_json(read_run_json(folder)["run"])
        else:
            run = build()
    assert run is not None
    for assignment in launch.set:
        run = run.with_setting(assignment)
    options = Options(
        resume=resume,
        checkpoint=launch.checkpoint,
        device=launch.device,
        tensorboard=launch.tensorboard,
        command=("overnight", "train", *argv),
    )
    summary = train(run, folder, options)
    from overnight.cli.outcome import print_outcome

    return print_outcome(folder, summary)


def _parse_recipe(name: str, recipe: Callable[..., Any], argv: list[str]) -> tuple[Launch, Callable[[], Any]]:
    """The recipe's own signature and the launch options, as one command line."""
    own = inspect.signature(recipe, eval_str=False)
    names = list(own.parameters)

    def collect(launch: Launch, **arguments: Any) -> tuple[Launch, dict[str, Any]]:
        return launch, arguments

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()]
    launch = inspect.Parameter("launch", inspect.Parameter.KEYWORD_ONLY, annotation=Launch, default=Launch())
    collect.__signature__ = inspect.Signature([*parameters, launch])  # type: ignore[attr-defined]
    annotations = {key: value for key, value in recipe.__annotations__.items() if key in names}
    collect.__annotations__ = annotations | {"launch": Annotated[Launch, tyro.conf.arg(name="")]}
    collect.__doc__ = recipe.__doc__
    chosen, arguments = tyro.cli(collect, args=argv, prog=f"overnight train {name}")
    return chosen, lambda: recipe(**arguments)


def _from_folder(path: Path, launch: Launch) -> tuple[Any, Path | None]:
    """A run folder to resume, or a run.json to run again in a new folder."""
    from overnight.train.checkpoint import read_run_json
    from overnight.train.run import Run

    settings = read_run_json(path)
    run = Run.from_json(settings["run"])
    if path.is_file():
        return run, launch.out
    if not launch.resume:
        raise UserError(
            f"{path} is a run folder.",
            f"Go on with it: overnight train {path} --resume; or run it again: overnight train {path / 'run.json'}.",
        )
    if launch.out is not None:
        raise UserError("--resume goes on in the run's own folder.", "Leave out --out.")
    return run, path


def _default_folder(target: str) -> Path:
    import os

    if "RANK" in os.environ:
        raise UserError("Under torchrun every rank must write to one folder.", "Give it with --out.")
    stem = Path(target).parent.name if Path(target).is_file() else target
    return Path("runs") / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
