"""The command line. This module loads neither torch nor a recipe: help must be instant."""

import importlib
import sys

import overnight
from overnight.errors import ElsewhereError, UserError

COMMANDS = {
    "prepare": "text, json, csv or parquet → a corpus folder",
    "train": "train a recipe, resume a run, or run a run.json again",
    "probe": "a baseline trained a short while → noise scale, relative steps, samples a second",
    "scale": "a tuned baseline → a recipe for another batch, what it will cost, and why",
    "evaluate": "exact held-out bits per byte of a run",
    "translate": "a sentence a line → translations",
    "recommend": "a user, or some ratings → the items to recommend",
    "generate": "stream text from a run's model",
    "features": "texts → a run's cell states, as npy or parquet",
    "trace": "a text in the colours of one unit",
    "classify": "labelled texts → a classifier on a run's features; texts → classes",
    "import": "published weights → a run folder",
    "export": "a run's model → safetensors, npy, ONNX or torch.export",
    "serve": "a local page to play with a run's model, and a JSON API",
    "report": "one page about one run or several",
    "bench": "how fast this machine trains, and how long your corpus takes",
    "doctor": "what this machine has, and what will be used",
    "list": "recipes and presets",
}


def usage() -> str:
    """The help page."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            f"overnight {overnight.__version__}: train in hours what used to take weeks",
            "",
            "usage: overnight COMMAND [ARGUMENTS] [--debug]",
            "",
            *lines,
            "",
            "overnight COMMAND --help says more. --debug shows the traceback of an error.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 2 a mistake that the user can mend, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("--version", "-V", "version"):
        print(f"overnight {overnight.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}."
            raise UserError(f"There is no command {name!r}.", remedy)
        code: int = importlib.import_module(f"overnight.cli.{_module(name)}").main(rest)
        return code
    except UserError as error:
        if debug:
            raise
        if not isinstance(error, ElsewhereError):
            print(f"overnight: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("\novernight: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away; closing quietly is what it expects
        sys.stderr.close()
        return 141


def _module(name: str) -> str:
    return {"list": "catalog", "import": "import_", "export": "export_"}.get(name, name)
