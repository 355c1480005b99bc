"""`overnight bench`: how fast this machine trains the byte model, and so how long a text takes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from overnight.doctor.bench import Bench as Measured

GIGABYTE = 1e9
RACE_SHARE = 0.2  # of --minutes
LEAST_STEPS = 4


@dataclass(frozen=True)
class Bench:
    """Train the presets of the byte language model for some seconds each and say how fast that goes, how much memory it
    takes, how long one pass over a text will take, and which precision and recurrence are at work; then race the
    recurrence of the smallest one for a fifth of the time, as --recurrence does. Presets that do not fit into memory
    are left out, with the reason."""

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
    """Number format of the products; auto is the one that training would choose, and all of them in a race."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    recurrence: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead, race the recurrence of the presets' sizes (laptop and 1024, or --preset) against the naive loop, nn.LSTM
    and the matrix products alone."""
    maps: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="(default: multiplicative)")
    ] = ()
    """Gate maps that --recurrence races: multiplicative, dense, factorized or grouped; of the last three also with
    -projected."""
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
    for name, least in (("bytes", 1.0), ("minutes", 0.0), ("batch_size", 1.0)):
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g} cannot work.", f"Give at least {least:g}.")

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
    if options.maps:
        raise UserError("--maps is a setting of --recurrence.", "Give both, or neither.")
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
                60 * options.minutes * (1 - RACE_SHARE),
                options.precision,
                on_start=lambda name: status.update(f"measuring {name} …"),
            )
            status.update("racing the recurrence …")
            raced, skipped = _short_race(found, world.device.type, options)
    if options.json:
        import orjson

        written = asdict(found)
        written["recurrence"] |= {"race": raced, "race_skipped": skipped}
        sys.stdout.write(orjson.dumps(written, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    from overnight.doctor.bench.page import show
    from overnight.doctor.recurrence.table import show as show_race

    show(found, Console())
    print()
    if skipped:
        print(f"recurrence not raced: {skipped}.")
    else:
        show_race(raced)
    print("Longer, at other sizes or for other gate maps: overnight bench --recurrence [--preset …] [--maps …]")
    return 0


def _short_race(found: "Measured", device: str, options: Bench) -> tuple[list[dict[str, Any]], str]:
    """The rows of a race of the smallest model that was measured, or why there are none."""
    from overnight.doctor.recurrence import compare, contestants_of

    names = contestants_of("auto" if options.precision == "fp16" else options.precision)
    one = min((one for one in found.trained if one.speed), key=lambda one: one.hidden_size)
    # weights and gradients, of every contestant its own
    needed = 8 * one.parameters * len(names)
    if found.memory_bytes is not None and needed > found.memory_bytes:
        return [], f"it needs about {needed / 1e9:.1f} GB"
    seconds = 60 * options.minutes * RACE_SHARE
    speed = 0.0 if one.speed is None else one.speed.bytes_per_s
    # a warm-up and a round of contestants of which the slowest take some three times as long as a step of training
    affordable = int(speed * seconds / (2 * 3 * len(names)) / one.global_batch_size)
    steps = min(one.length, max(LEAST_STEPS, affordable))
    size = f"{one.hidden_size}/{one.global_batch_size}/{steps}"
    (rows,) = compare(["multiplicative"], [size], device, seconds=seconds, rounds=1, contestants=names)
    return rows, "" if rows else "no contestant fits into memory"


def _race(options: Bench) -> int:
    """The recurrence against its rivals, at the sizes of the presets."""
    from overnight.doctor.recurrence import case_of, compare, contestants_of, where
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
        sizes[
            f"{preset.hidden_size}/{preset.batch if options.batch_size is None else options.batch_size}/{preset.length}"
        ] = None
    maps = tuple(dict.fromkeys(options.maps)) or ("multiplicative",)
    for name in maps:
        for size in sizes:
            case_of(name, size)
    contestants = contestants_of(options.precision)
    keep_freed_memory()
    with start_world(options.device) as world:
        device = world.device.type
        seconds = 60 * options.minutes / len(maps) / len(sizes)
        found = []
        for rows in compare(maps, list(sizes), device, seconds=seconds, rounds=1, contestants=contestants):
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
