"""`overnight evaluate RUN`: exact bits per byte, perplexity or accuracy of a trained model over a whole split."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from overnight.data.corpus import ByteStream
    from overnight.evaluate.heldout import HeldOut
    from overnight.evaluate.load import ByteModel


@dataclass(frozen=True)
class Evaluate:
    """Exact bits per byte, perplexity of words, accuracy on images or texts, or F1 of answers, over a whole split, with
    a 95 % interval; BLEU of a translator; RMSE and lists of a recommender."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train wrote."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the run's own)")] = None
    """A corpus folder, or one of images."""
    split: Literal["auto", "valid", "test", "train"] = "auto"
    """Which of its splits; auto is the one that the run held out."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    lanes: int | None = None
    """The text is read in so many places side by side (64 of bytes, 16 of words); 1 is plain sequential reading."""
    precision: Literal["fp32", "auto", "bf16", "fp16"] = "fp32"
    """Number format of the products; auto is the one that training would choose."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    baselines: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Add order-0 entropy, gzip -9 and xz -9e of the same bytes."""
    dynamic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Dynamic evaluation: the model learns from what it has been scored on (one lane unless --lanes says otherwise)."""
    dynamic_lr: float = 0.1
    """Its rate of SGD."""
    dynamic_decay: float = 0.0
    """How far each step goes back towards the trained weights, 0 to below 1."""
    dynamic_length: int | None = None
    """Words or bytes a step; 5 words or 20 bytes unless given."""
    k: tuple[int, ...] = (10, 100)
    """Lengths of a recommender's lists."""
    relevant: float | None = None
    """Least rating of a held-out item that a list is to hold; all unless given."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run, its checkpoint or the corpus cannot be used, or a setting is out of its range.
    """
    options = tyro.cli(Evaluate, args=argv, prog="overnight evaluate")

    from overnight.data.corpus import Corpus
    from overnight.errors import UserError
    from overnight.evaluate.baselines import baselines
    from overnight.evaluate.load import load_byte_model
    from overnight.train.checkpoint import read_run_json

    settings = read_run_json(options.run)
    if options.split == "auto":
        options = replace(options, split=_held_out(settings))
    metric = settings.get("derived", {}).get("metric")
    if str(settings["run"].get("task", {}).get("call")).endswith("TranslationTask"):
        from overnight.cli.evaluate_pairs import evaluate_translator

        return evaluate_translator(options)
    if metric == "perplexity":
        from overnight.cli.evaluate_words import evaluate_word_run

        return evaluate_word_run(options)
    if metric == "text_accuracy":
        from overnight.cli.evaluate_texts import evaluate_text_run

        return evaluate_text_run(options)
    if metric == "f1":
        from overnight.cli.evaluate_answers import evaluate_answers

        return evaluate_answers(options)
    if metric == "rmse":
        from overnight.cli.evaluate_ratings import evaluate_rating_run

        return evaluate_rating_run(options)
    if metric == "masked_accuracy":
        from overnight.cli.evaluate_bert import evaluate_bert

        return evaluate_bert(options)
    if metric == "accuracy":
        from overnight.cli.evaluate_images import evaluate_image_run

        return evaluate_image_run(options)
    loaded = load_byte_model(options.run, options.checkpoint, options.device)
    folder = options.data or loaded.corpus
    if folder is None:
        raise UserError(f"{options.run} does not say which corpus it was trained on.", "Name one with --data.")
    stream = Corpus(folder).split(options.split)
    if not len(stream):
        raise UserError(f"Split {options.split} of {folder} is empty.", "Choose another with --split.")
    for shard in stream.shards:
        shard.verify()
    result = _evaluate(loaded, stream, options)
    others = baselines(stream) if options.baselines else []
    if options.json:
        import orjson

        record: dict[str, Any] = {"run": str(options.run), "step": loaded.step, "corpus": str(folder)}
        record |= {"split": options.split, "precision": options.precision, **vars(result)}
        record |= {"baselines": [vars(other) for other in others]} if options.baselines else {}
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    known = math.isfinite(result.low)
    interval = f"95 % interval {result.low:.4f} to {result.high:.4f}" if known else "too few bytes for an interval"
    print(f"{options.split}: {result.bits_per_byte:.4f} bits per byte ({interval})")
    print(f"{result.bytes:,} bytes, all of the split, in {result.seconds:.1f} s; step {loaded.step:,}; {folder}")
    for other in others:
        print(f"{other.name}: {other.bits_per_byte:.4f} bits per byte")
    return 0


def _held_out(settings: Mapping[str, Any]) -> Literal["valid", "test"]:
    """The split that the run evaluated itself on."""
    component = settings["run"].get("evaluate")
    named = component.get("kwargs", {}).get("split") if isinstance(component, dict) else None
    return "test" if named == "test" else "valid"


def _evaluate(loaded: "ByteModel", stream: "ByteStream", options: Evaluate) -> "HeldOut":
    from overnight.evaluate.dynamic import evaluate_dynamically
    from overnight.evaluate.heldout import evaluate_heldout
    from overnight.evaluate.scoring import Dynamic
    from overnight.train.precision import choose_precision

    reset = loaded.run["run"].get("data", {}).get("kwargs", {}).get("reset", "shard")
    autocast = choose_precision(loaded.device, options.precision).dtype
    with progress_bar() as progress:
        if options.dynamic:
            length = 20 if options.dynamic_length is None else options.dynamic_length
            dynamic = Dynamic(options.dynamic_lr, options.dynamic_decay, length)
            return evaluate_dynamically(
                loaded.model,
                stream,
                dynamic,
                lanes=1 if options.lanes is None else options.lanes,
                reset=reset,
                autocast=autocast,
                on_progress=progress,
            )
        return evaluate_heldout(
            loaded.model,
            stream,
            lanes=64 if options.lanes is None else options.lanes,
            reset=reset,
            autocast=autocast,
            device=loaded.device,
            on_progress=progress,
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error; what it gives is told how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
