"""`overnight features RUN IN --out F`: the cell state of a trained model after every text of a file."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_LONG = 1_000_000


@dataclass(frozen=True)
class Features:
    """The cell state of a trained model after every text of a file, a row each, in constant memory.

    Each text is read by itself, as "\\n " + text + " " with HTML entities replaced.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The folder that overnight train wrote."""
    texts: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN", help_behavior_hint="")]
    """txt (a text a line), csv, tsv, json, jsonl or parquet, also .gz or .zst; - is standard input."""
    out: Annotated[Path, tyro.conf.arg(metavar="F.npy|F.parquet")]
    """Where to: float32, a row for each text in its order. It is whole or absent, whatever happens."""
    text_field: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: where one is obvious)")] = None
    """The field or column with the text."""
    format: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: by the name)")] = None
    """Format of IN, such as jsonl or csv.gz."""
    layer: int = -1
    """Whose cell state; 0 is the lowest, -1 the highest."""
    pool: Literal["last", "mean", "max"] = "last"
    """The state after the last byte, or over the states after every byte."""
    tanh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The hyperbolic tangent of the cell state."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Keep what was computed here, so that a second time, or after a stop, it is not computed again."""
    lanes: int = 128
    """Texts read side by side."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the products; auto is the one that training would choose."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run or the texts cannot be used, a setting is out of its range, or `--out` cannot be written.
    """
    options = tyro.cli(Features, args=argv, prog="overnight features")

    from overnight.data.labelled import find_source, read_records
    from overnight.errors import UserError
    from overnight.evaluate.feature_files import check_out
    from overnight.evaluate.load import load_byte_model

    check_out(options.out)
    source = find_source(options.texts, options.format)
    if os.path.exists(options.out) and options.texts != "-" and os.path.samefile(options.texts, options.out):
        raise UserError(f"--out {options.out} is the file with the texts.", "Choose another name.")
    model = load_byte_model(options.run, options.checkpoint, options.device)

    def texts() -> Iterator[str]:
        count = -1
        for count, record in enumerate(read_records(source, text_field=options.text_field, labelled=False)):
            if len(record.text) > _LONG:
                size = f"{len(record.text) / 1e6:.1f} million characters"
                print(f"Text {count + 1:,} has {size}; nothing is shown until it is read.", file=sys.stderr)
            yield record.text
            if sys.stderr.isatty() and not count % 1024:
                print(f"\r{count:,} texts", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        if count < 0:
            raise UserError(f"{options.texts} holds no text.", "Give at least one line or record.")

    count = model.save_features(
        texts(),
        options.out,
        layer=options.layer,
        pool=options.pool,
        tanh=options.tanh,
        cache=options.cache,
        lanes=options.lanes,
        precision=options.precision,
    )
    print(
        f"{options.out}: {count:,} texts, {model.model.hidden_size:,} units each; step {model.step:,} of {options.run}"
    )
    return 0
