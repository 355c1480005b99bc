"""`overnight bench`: how fast this machine trains the byte model, and so how long a text takes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro

GIGABYTE = 1e9


@dataclass(frozen=True)
class Bench:
    """Train the presets of the byte language model for some seconds each and say how fast that goes, how much memory it
    takes, how long one pass over a text will take, and which precision and recurrence are at work. Presets that do not
    fit into memory are left out, with the reason."""

    corpus: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: random bytes)")] = None
    """A corpus folder: its training split is the text."""
    bytes: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(default: 1e9)")] = None
    """The size of the text where there is no corpus yet, such as 40e9."""
    preset: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="(default: all)")] = ()
    """Presets to measure (overnight list shows them)."""
    batch_size: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: each preset's own)")] = None
    """Lanes of one update."""
    minutes: float = 1.0
    """Measure for about so long in all; the largest models take what one short step takes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the products; auto is the one that training would choose."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    recurrence: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead, race the recurrence of the presets' sizes (laptop and 1024, or --preset) against the naive loop, nn.LSTM
    and the matrix products alone."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of a table."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the corpus cannot be used, a setting is out of its range, or no preset can be measured.
    """
    options = tyro.cli(Bench, args=argv, prog="overnight bench")

    from rich.console import Console

    from overnight.errors import UserError

    if options.corpus is not None and options.bytes is not None:
        raise UserError("A corpus has a size of its own.", "Give --corpus or --bytes.")
    for name, least in (("bytes", 1.0), ("minutes", 0.0)):
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            raise UserError(f"--{name} {value:g} cannot work.", f"Give at least {least:g}.")

    from overnight.data.corpus import Corpus
    from overnight.doctor.bench import bench
    from overnight.recipes.byte_lm import byte_lm
    from overnight.recipes.byte_presets import PRESETS
    from overnight.train.distributed import start_world, under_torchrun
    from overnight.train.host import keep_freed_memory

    if under_torchrun():
        raise UserError("Training speed is measured in one process.", "Start overnight bench without torchrun.")

    if options.recurrence:
        return _race(options)
    stream = None if options.corpus is None else Corpus(options.corpus).split("train")
    if stream is not None and not len(stream):
        raise UserError(f"{options.corpus} has nothing to train on.", "Prepare it with a training split.")
    text_bytes = int(options.bytes or GIGABYTE) if stream is None else len(stream)
    with _some_corpus(options.corpus) as folder, start_world(options.device) as world:
        names = options.preset or tuple(PRESETS)
        runs = {name: byte_lm(folder, preset=name, batch_size=options.batch_size) for name in names}
        keep_freed_memory()
        with Console(stderr=True).status("measuring …") as status:
            found = bench(
                runs,
                world,
                stream,
                text_bytes,
                60 * options.minutes,
                options.precision,
                on_start=lambda name: status.update(f"measuring {name} …"),
            )
    if options.json:
        import orjson

        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    from overnight.doctor.bench.page import show

    show(found, Console())
    return 0


def _race(options: Bench) -> int:
    """The recurrence against its rivals, at the sizes of the presets."""
    from overnight.doctor.recurrence import compare, where
    from overnight.doctor.recurrence.table import show
    from overnight.errors import UserError
    from overnight.recipes.byte_presets import PRESETS
    from overnight.train.distributed import start_world
    from overnight.train.host import keep_freed_memory

    for name, value in (("corpus", options.corpus), ("bytes", options.bytes)):
        if value is not None:
            raise UserError(f"--{name} has no part in --recurrence.", "Leave one of them out.")
    sizes: dict[str, None] = {}
    for name in options.preset or ("laptop", "1024"):
        if name not in PRESETS:
            raise UserError(f"There is no preset {name!r}.", f"Choose from {', '.join(PRESETS)}.")
        preset = PRESETS[name]
        sizes[f"{preset.hidden_size}/{options.batch_size or preset.batch}/{preset.length}"] = None
    keep_freed_memory()
    with start_world(options.device) as world:
        device = world.device.type
        seconds = 60 * options.minutes / len(sizes)
        found = []
        for rows in compare(["multiplicative"], list(sizes), device, seconds=seconds, rounds=1):
            found += rows
            if not options.json:
                show(rows)
                print()
        if options.json:
            print(json.dumps({"device": where(device), "results": found}, indent=2))
        else:
            print(where(device))
    return 0


@contextmanager
def _some_corpus(given: Path | None) -> Iterator[Path]:
    """The recipe wants a corpus; without one it gets one that holds nothing, and random bytes are read."""
    if given is not None:
        yield given
        return
    from overnight.data.corpus import FORMAT

    with TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_text(json.dumps({"format": FORMAT, "splits": {}}))
        yield Path(folder)
