"""How fast this machine trains a run, and so how long a corpus takes: real steps of the trainer, timed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overnight.data.corpus import ByteStream
from overnight.doctor.bench.memory import available_bytes, needed_bytes
from overnight.doctor.bench.stepping import RandomBytes, Speed, measure
from overnight.doctor.choices import Choice, examine_fast_paths
from overnight.errors import UserError
from overnight.train.distributed import World
from overnight.train.precision import choose_precision
from overnight.train.run import Run

__all__ = ["Bench", "Trained", "bench"]


@dataclass(frozen=True)
class Trained:
    """One model, or why it was not measured.

    Args:
        names: of the runs that train it so; the first was measured.
        hidden_size, parameters: of the model.
        global_batch_size, length: lanes and bytes a lane of one step.
        memory_bytes: that training takes, about; on a GPU measured, if whole steps were.
        speed: what was measured, or None.
        epoch_seconds: one pass over the text, or None.
        skipped: why there is no speed, or empty.
    """

    names: tuple[str, ...]
    hidden_size: int
    parameters: int
    global_batch_size: int
    length: int
    memory_bytes: int
    speed: Speed | None
    epoch_seconds: float | None
    skipped: str


@dataclass(frozen=True)
class Bench:
    """What ``overnight bench`` knows.

    Args:
        device: name of the device, such as ``cpu``.
        threads: of one operation of torch on the CPU.
        memory_bytes: what could be used on the device before anything was measured; None where the system does not say.
        text_bytes: the text whose pass is foretold.
        precision, recurrence: what training takes here, and why.
        trained: in the order of the runs.
    """

    device: str
    threads: int
    memory_bytes: int | None
    text_bytes: int
    precision: Choice
    recurrence: Choice
    trained: tuple[Trained, ...]


def bench(
    runs: Mapping[str, Run],
    world: World,
    stream: ByteStream | None,
    text_bytes: int,
    seconds: float,
    precision: str = "auto",
    on_start: Callable[[str], None] = lambda name: None,
) -> Bench:
    """Measure what fits into memory.

    Args:
        runs: of byte models on lanes of bytes, by name; those that make the same steps are measured once.
        world: one process; its device.
        stream: the bytes to train on; None draws some, on which the time of a step does not depend.
        text_bytes: how long one pass over so many takes is foretold.
        seconds: for all of them together, about; each gets the same share.
        precision: as ``Run.precision``.
        on_start: is told the name of each run that will be measured.

    Raises:
        UserError: if none could be measured.
    """
    import torch

    chosen = choose_precision(world.device, precision)
    shared: dict[tuple[int, int, int, int], list[str]] = {}
    for name, run in runs.items():
        shared.setdefault(_steps(run), []).append(name)
    if stream is None:
        stream = RandomBytes(16 * max(batch * (length + 1) for _, batch, length, _ in shared))
    available = available_bytes(world.device)
    trained = []
    for names in shared.values():
        run = runs[names[0]]
        parameters, needed = needed_bytes(run, chosen)
        speed: Speed | None = None
        skipped = ""
        if available is not None and needed > available:
            skipped = (
                f"it needs about {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB can be used; "
                f"trained with a --micro-batch-size below {run.global_batch_size} it needs less"
            )
        else:
            on_start(names[0])
            try:
                speed = measure(run, chosen, world, stream, seconds / len(shared))
            except UserError as error:
                skipped = error.problem.rstrip(".")
        memory = speed.peak_bytes if speed is not None and speed.peak_bytes is not None else needed
        epoch = None if speed is None else text_bytes / speed.bytes_per_s
        hidden, batch, length, _ = _steps(run)
        trained.append(Trained(tuple(names), hidden, parameters, batch, length, memory, speed, epoch, skipped))
    if not any(one.speed for one in trained):
        reasons = "; ".join(f"{', '.join(one.names)}: {one.skipped}" for one in trained)
        raise UserError(f"Nothing could be measured ({reasons}).", "Take a smaller --preset or --batch-size.")
    return Bench(
        device=torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else str(world.device),
        threads=torch.get_num_threads(),
        memory_bytes=available,
        text_bytes=text_bytes,
        precision=Choice(chosen.name, True, chosen.reason),
        recurrence=next(path for path in examine_fast_paths(world.device.type) if path.chosen),
        trained=tuple(trained),
    )


def _steps(run: Run) -> tuple[int, int, int, int]:
    """What the time of a step depends on: units, batch, length, embedding."""
    model = run.model.keywords
    return model["hidden_size"], run.global_batch_size, run.data.keywords["length"], model["embedding_size"]
