"""`overnight train`: a recipe, a run folder to resume, or a run.json to run again."""

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overnight.errors import ElsewhereError, UserError

if TYPE_CHECKING:
    from overnight.train.run import Run

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
    trust: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Import what a run.json names outside overnight and torch."),
    ] = False
    tensorboard: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Write TensorBoard event files too.")
    ] = False


def main(argv: list[str]) -> int:
    """Parse, train, and say what came of it."""
    from overnight.recipes import RECIPES

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(RECIPES)))
        return 0
    with _one_voice():
        launch, folder, build = _parse(argv[0], argv[1:])

        from overnight.train.distributed import restarted_by_torchrun
        from overnight.train.launch import Options, train

        restarted = (folder / "run.json").is_file() and (restarted_by_torchrun() or _same_launch(folder))
        resume = launch.resume or restarted
        if launch.checkpoint != "last" and not resume:
            raise UserError(f"--checkpoint {launch.checkpoint} is for a run that is resumed.", "Add --resume.")
        # what torchrun started again was started with these very arguments
        run = _read_run(folder, launch.trust or restarted) if resume else build()
        for assignment in launch.set:
            run = run.with_setting(assignment)
        if run.adapt is not None:
            from overnight.tune.online import fixing

            run = fixing(run, launch.set)
        options = Options(
            resume=resume,
            checkpoint="last" if restarted else launch.checkpoint,
            device=launch.device,
            tensorboard=launch.tensorboard,
            command=("overnight", "train", *argv),
        )
    summary = train(run, folder, options)
    from overnight.cli.outcome import print_outcome

    return print_outcome(folder, summary)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Under torchrun, before the ranks know each other, all of them find the same mistakes: one of each host says them.

    It does so undisturbed: torchrun sends SIGTERM to the other ranks as soon as one has failed.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise ElsewhereError(error.problem, error.remedy) from error
        raise
    signal.signal(signal.SIGTERM, before)


def _parse(target: str, argv: list[str]) -> tuple[Launch, Path, Callable[[], "Run"]]:
    """The launch options, the run folder, and what makes the run."""
    from overnight.recipes import RECIPES, find

    path = Path(target)
    if target in RECIPES or not path.exists():
        if target not in RECIPES and ("--resume" in argv or len(path.parts) > 1):
            raise UserError(f"{target} does not exist.", "Name a recipe (see: overnight list), a run or a run.json.")
        launch, build = _parse_recipe(target, find(target), argv)
        if launch.resume:
            named = launch.out or "RUN"
            raise UserError(
                "--resume goes on with a run as it was, whatever a recipe's arguments say.",
                f"Use: overnight train {named} --resume; --set NAME=VALUE changes a setting.",
            )
        return launch, launch.out or _default_folder(target), build
    launch = tyro.cli(Launch, args=argv, prog=f"overnight train {target}", description="Resume or repeat a run.")
    if path.is_file():
        if launch.resume:
            raise UserError(f"{path} is a file.", f"Name the run folder: overnight train {path.parent} --resume.")
        stem = path.resolve().parent.name if path.name == "run.json" else path.stem
        return launch, launch.out or _default_folder(stem), lambda: _read_run(path, launch.trust)
    if launch.out is not None:
        raise UserError("--resume goes on in the run's own folder.", "Leave out --out.")
    if not launch.resume:
        _read_run(path, trust=True)
        raise UserError(
            f"{path} is a run folder.",
            f"Go on with it: overnight train {path} --resume; or run it again: overnight train {path / 'run.json'}.",
        )
    return launch, path, lambda: _read_run(path, launch.trust)


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


def _same_launch(folder: Path) -> bool:
    """Whether the same torchrun job made the run: a change of membership is no restart to torchrun, but is one here."""
    from overnight.train.checkpoint import read_run_json

    job = os.environ.get("TORCHELASTIC_RUN_ID")
    return job not in (None, "", "none") and read_run_json(folder).get("launch") == job


def _read_run(path: Path, trust: bool) -> "Run":
    """The run of a run folder or a run.json."""
    from overnight.train.checkpoint import read_run_json
    from overnight.train.run import Run

    return Run.from_json(read_run_json(path)["run"], trust)


def _default_folder(stem: str) -> Path:
    if "RANK" in os.environ:
        raise UserError("Under torchrun every rank must write to one folder.", "Give it with --out.")
    return Path("runs") / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
