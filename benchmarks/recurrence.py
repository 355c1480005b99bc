"""Speed of the recurrence against the naive loop, nn.LSTM and the matrix products alone, in one process.

    python benchmarks/recurrence.py [--device cuda] [--maps multiplicative] [--sizes 1024/128/64] [--json FILE]

What is compared, and how, is overnight.doctor.recurrence, which `overnight bench --recurrence` runs too.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from overnight.doctor.recurrence import MAPS, case_of, compare, where
from overnight.doctor.recurrence.race import CONTESTANTS, matrix_rates
from overnight.doctor.recurrence.table import show
from overnight.errors import UserError
from overnight.train.host import keep_freed_memory

SIZES = {
    "cpu": {
        "multiplicative": ["1024/128/64", "512/64/64", "1024/512/64", "256/16/32"],
        "others": ["1024/128/64", "512/64/64"],
    },
    "cuda": {"multiplicative": ["4096/512/256", "1024/128/64"], "others": ["1024/128/64", "8192/128/20"]},
}


def main() -> int:
    try:
        race_all(options_given())
    except UserError as error:
        print(f"recurrence: {error}", file=sys.stderr)
        return 2
    return 0


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=MAPS)
    parser.add_argument("--sizes", nargs="+", metavar="UNITS/BATCH/STEPS", help="of every map")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each map and size, after the warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="at least so many")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/recurrence.json"), metavar="FILE")
    return parser.parse_args()


def sizes_of(options: argparse.Namespace, name: str) -> list[str]:
    preset = SIZES[options.device]
    return list(options.sizes or preset.get(name, preset["others"]))


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is measured."""
    for name, least in (("seconds", 0), ("rounds", 1), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            raise UserError(f"--{name} {value} cannot work.", f"Give at least {least}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but torch sees no CUDA device.", "Use --device cpu.")
    for name in options.maps:
        for size in sizes_of(options, name):
            case_of(name, size)
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.open("a").close()
    except OSError as error:
        raise UserError(f"{options.json} cannot be written ({error.strerror}).", "Give another --json.") from None


def race_all(options: argparse.Namespace) -> None:
    check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    peaks = matrix_rates(options.device)
    print(f"torch {torch.__version__}, {where(options.device)}; one large product: "
          f"{peaks['fp32'] / 1e9:,.0f} GFLOP/s fp32, {peaks['bf16'] / 1e9:,.0f} GFLOP/s bf16", flush=True)  # fmt: skip
    record: dict[str, Any] = {
        "date": date.today().isoformat(), "torch": torch.__version__, "device": where(options.device),
        "peak_flops": peaks, "results": [],
    }  # fmt: skip
    for name in options.maps:
        races = compare(
            [name],
            sizes_of(options, name),
            options.device,
            seconds=options.seconds,
            rounds=options.rounds,
            contestants=options.contestants,
        )
        for rows in races:
            print()
            show(rows)
            record["results"] += rows
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.json}")


if __name__ == "__main__":
    sys.exit(main())
