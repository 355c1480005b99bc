"""`overnight serve RUN`: a local page and a JSON API on a run's model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_SMALL_BYTES = 64 << 20  # such weights come from the cache, where waiting for a second thread costs more than it gives


@dataclass(frozen=True)
class Serve:
    """A page to play with a trained model, and a JSON API behind it. Ctrl-C ends it."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train wrote."""
    host: str = "127.0.0.1"
    """The address to listen at; the default is reached from this machine only."""
    port: int = 8642
    """The port to listen at; 0 takes a free one."""
    name: tuple[str, ...] = ()
    """Names that the server may be called by besides localhost and addresses in numbers."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    threads: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 1 for a small model, else all)")] = None
    """CPU threads."""
    seconds: float = 60.0
    """Until an answer has to be complete."""
    requests: int = 64
    """Requests in work or waiting at once; those beyond are told to come again."""
    connections: int = 256
    """Connections open at once; beyond that, those that say nothing are closed."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run or its checkpoint cannot be used, a setting is out of its range, starlette or uvicorn is not
            installed, or the address is taken.
    """
    options = tyro.cli(Serve, args=argv, prog="overnight serve")

    import torch

    from overnight.errors import UserError
    from overnight.evaluate.load import load_byte_model
    from overnight.serve.limits import Limits
    from overnight.serve.server import loopback, serve

    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads} cannot work.", "Give at least 1.")
    limits = Limits(
        seconds=options.seconds,
        requests=options.requests,
        streams=min(32, options.requests),
        connections=options.connections,
    )
    model = load_byte_model(options.run, options.checkpoint, options.device)
    size_bytes = sum(parameter.nbytes for parameter in model.model.parameters())
    torch.set_num_threads(options.threads or (1 if size_bytes < _SMALL_BYTES else torch.get_num_threads()))
    if not loopback(options.host):
        print("overnight: everyone who reaches this address can use the model.", file=sys.stderr)
    try:
        serve(
            model,
            options.run,
            limits,
            host=options.host,
            port=options.port,
            names=options.name,
            on_ready=lambda address: print(f"{options.run} at {address}  (Ctrl-C ends it)", flush=True),
        )
    except KeyboardInterrupt:
        return 130
    return 0
