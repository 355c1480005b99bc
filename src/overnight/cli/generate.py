"""`overnight generate RUN`: text from a trained model, shown as it comes."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import tyro

from overnight.cli.terminal import without_controls

if TYPE_CHECKING:
    from torch import nn

RULE = "─" * 40
_SMALL_BYTES = 64 << 20  # such weights come from the cache, where waiting for a second thread costs more than it gives


@dataclass(frozen=True)
class Generate:
    """Text from a trained model, shown as it comes. Ctrl-C ends it."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train wrote."""
    prompt: str = ""
    """The text to continue; an empty one starts a new line."""
    length: int = 1000
    """Bytes to generate."""
    temperature: float = 1.0
    """0 always takes the most likely byte, 1 draws as the model believes, more is wilder."""
    top_k: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    """Draw among the K most likely bytes only."""
    top_p: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    """Draw among the most likely bytes that together have this probability."""
    seed: int = 0
    """The same seed gives the same text on the same machine."""
    fix_unit: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="UNIT=VALUE", help_behavior_hint="(may be given again)"),
    ] = ()
    """Hold a unit's cell state at a value at every step, such as 2388=1.5; told on standard error."""
    layer: int = -1
    """Whose units --fix-unit means; 0 is the lowest layer, -1 the highest."""
    samples: int = 1
    """How many texts, made side by side; the first is shown as it comes, the others after it."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    threads: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 1 for a small model, else all)")] = None
    """CPU threads; they pay for large models on an idle machine only."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run or its checkpoint cannot be used, or a setting is out of its range.
    """
    options = tyro.cli(Generate, args=argv, prog="overnight generate")

    import torch

    from overnight.errors import UserError
    from overnight.evaluate.generate import generate
    from overnight.evaluate.load import load_byte_model

    for name in ("samples", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value} cannot work.", "Give at least 1.")
    fixed = _fixed(options.fix_unit)
    # An argument that is no UTF-8 reaches Python with its bytes escaped; this gives them back.
    prompt = options.prompt.encode("utf-8", "surrogateescape")
    out = sys.stdout
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="replace")
    try:
        model = load_byte_model(options.run, options.checkpoint, options.device).model
        threads = options.threads or (1 if _size_bytes(model) < _SMALL_BYTES else torch.get_num_threads())
        torch.set_num_threads(threads)
        steps = generate(
            model,
            [prompt] * options.samples,
            options.length,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            fix_units=fixed,
            layer=options.layer,
        )
        if fixed:
            # not among the text, which may go into a file or another program
            units = ", ".join(f"unit {unit} fixed at {value:g}" for unit, value in fixed.items())
            print(units, file=sys.stderr, flush=True)
        _show(prompt, steps, options.samples, out)
    except KeyboardInterrupt:
        out.write("\n")
        out.flush()
        return 130
    return 0


def _fixed(given: tuple[str, ...]) -> dict[int, float]:
    from overnight.errors import UserError

    fixed: dict[int, float] = {}
    for argument in given:
        name, _, number = argument.partition("=")
        try:
            unit, value = int(name), float(number)
        except ValueError:
            raise UserError(f"--fix-unit {argument} is not UNIT=VALUE.", "Write it as 2388=1.5.") from None
        if unit in fixed:
            raise UserError(f"--fix-unit names unit {unit} twice.", "Give it one value.")
        fixed[unit] = value
    return fixed


def _size_bytes(model: "nn.Module") -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _show(prompt: bytes, steps: Iterator[list[bytes]], samples: int, out: TextIO) -> None:
    from overnight.evaluate.generate import text

    later: list[list[bytes]] = [[] for _ in range(samples - 1)]

    def first() -> Iterator[bytes]:
        yield prompt
        for chosen, *others in steps:
            for kept, other in zip(later, others, strict=True):
                kept.append(other)
            yield chosen

    def write(chunks: Iterator[bytes]) -> None:
        for piece in text(chunks):
            if piece:
                out.write(without_controls(piece) if out.isatty() else piece)
                out.flush()
        out.write("\n")

    write(first())
    for kept in later:
        out.write(f"{RULE}\n")
        write(iter([prompt, *kept]))
    out.flush()
