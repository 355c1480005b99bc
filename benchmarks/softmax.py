"""Time and memory of a training step of output layers against F.linear + cross_entropy + torch's Adagrad.

    OVERNIGHT_DATA=… python benchmarks/softmax.py [--words 10000 793471] [--hidden 512] [--json FILE]

A step is forward, backward and optimizer of the output layer alone, of 64 × 20 tokens whose targets have the One
Billion Word vocabulary's frequencies (``lm1b_counts`` under OVERNIGHT_DATA; 1/rank without it) and whose h is random.
Every contestant runs in a child forked from this process, one after another. Memory is the highest resident set from
before the weights were made, to the end; "step" is that without the weights and the optimizer's state, "all" with them.
Times are medians; a first step of more than five seconds is the only one. What would not fit is skipped, and said.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.softmax import NCE, AdaptiveSoftmax, FullSoftmax, SampledSoftmax
from overnight.optim.rows import RowAdagrad

TOKENS, SAMPLES, VOCABULARY = 64 * 20, 8192, 793_471
PLAIN = "plain"
SLOW_S, ROUNDS = 5.0, 5
SPARE_BYTES = 10**9
"""Left to the machine's other programs."""


class Plain(nn.Module):
    """What one writes first."""

    def __init__(self, hidden: int, words: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, words)

    def forward(self, h: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.linear(h), targets, reduction="sum")


def cutoffs(words: int) -> list[int]:
    return [end for end in (2_000, 10_000, 100_000) if end < words]


CONTESTANTS: dict[str, Callable[[int, int], nn.Module]] = {
    PLAIN: Plain,
    "full": FullSoftmax,
    "sampled": lambda hidden, words: SampledSoftmax(hidden, words, samples=min(SAMPLES, words)),
    "sampled, TensorFlow's": lambda hidden, words: SampledSoftmax(
        hidden, words, samples=min(SAMPLES, words), certain="none"
    ),
    "sampled, one sum a row": lambda hidden, words: SampledSoftmax(hidden, words, samples=min(SAMPLES, words)),
    "NCE": lambda hidden, words: NCE(hidden, words, samples=min(SAMPLES, words)),
    "adaptive": lambda hidden, words: AdaptiveSoftmax(hidden, words, cutoffs=cutoffs(words)),
}


def optimizer_of(name: str, module: nn.Module) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": 0.2, "initial_accumulator_value": 1.0}
    if name in (PLAIN, "adaptive"):
        return torch.optim.Adagrad(module.parameters(), **settings)
    return RowAdagrad(module.parameters(), per_row=name == "sampled, one sum a row", **settings)


def counts_of(words: int) -> tuple[np.ndarray, str]:
    """Falling counts of the most frequent words."""
    folder = os.environ.get("OVERNIGHT_DATA")
    path = Path(folder) / "lm1b_counts" / "word_freq_int32.npy" if folder else None
    if path is None or not path.exists():
        return 1e9 / np.arange(1, words + 1), "1/rank"
    return np.sort(np.load(path))[::-1][:words].astype(np.float64), "lm1b_counts"


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def warm_up() -> None:
    """Let the libraries take what they take once."""
    for kind in (PLAIN, "sampled"):
        module = CONTESTANTS[kind](16, 64)
        optimizer = optimizer_of(kind, module)
        module(torch.randn(32, 16, requires_grad=True), torch.arange(32)).backward()
        optimizer.step()


def measure(name: str, words: int, hidden: int, bf16: bool, targets: Tensor) -> dict[str, Any]:
    """In a child: build, train a few steps."""
    torch.manual_seed(0)
    warm_up()
    h = torch.randn(TOKENS, hidden, requires_grad=True)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    module = CONTESTANTS[name](hidden, words)
    optimizer = optimizer_of(name, module)
    forward_backward, update = [], []
    rows = 0
    while not forward_backward or (forward_backward[0] < SLOW_S and len(forward_backward) <= ROUNDS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = module(h, targets)
        loss.backward()
        middle = time.perf_counter()
        optimizer.step()
        end = time.perf_counter()
        forward_backward.append(middle - start)
        update.append(end - middle)
        weight = max(module.parameters(), key=Tensor.numel)
        assert weight.grad is not None
        rows = len(weight.grad._indices()[0]) if weight.grad.is_sparse else len(weight)
        optimizer.zero_grad(set_to_none=True)
        h.grad = None
        del loss
    peak = resident("VmHWM") - before
    state = (value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor))
    held = nbytes(module.parameters()) + nbytes(state)
    keep = slice(1 if len(update) > 1 else 0, None)  # the first is for warming up
    return {
        "name": name, "words": words, "hidden": hidden, "rounds": len(update[keep]), "rows": rows,
        "forward_backward_s": statistics.median(forward_backward[keep]), "optimizer_s": statistics.median(update[keep]),
        "step_s": statistics.median([a + b for a, b in zip(forward_backward, update, strict=True)][keep]),
        "held_bytes": held, "step_bytes": peak - held, "all_bytes": peak,
    }  # fmt: skip


def needed(name: str, words: int, hidden: int) -> int:
    logits, weight = 4 * TOKENS * words, 4 * words * hidden
    if name == PLAIN:
        return 2 * weight + max(3 * logits, logits + 2 * weight)
    return {"full": 4, "adaptive": 3}.get(name, 2) * weight + 2**30


def available() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def child(pipe: Any, *arguments: Any) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go where memory runs out
    pipe.send(measure(*arguments))


def in_a_child(*arguments: Any) -> dict[str, Any] | None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there, *arguments))
    process.start()
    there.close()
    try:
        found: dict[str, Any] | None = here.recv()
    except EOFError:
        found = None
    process.join()
    return found


def show(row: dict[str, Any], plain: dict[str, Any] | None) -> None:
    said = [""] * 3
    if plain is not None:
        said = [f"{plain[key] / max(row[key], 1):.1f}x" if key != "step_s" else f"{plain[key] / row[key]:.1f}x"
                for key in ("step_s", "step_bytes", "all_bytes")]  # fmt: skip
        row |= {f"{key}_ratio": plain[key] / row[key] for key in ("step_s", "step_bytes", "all_bytes")}
    print(f"  {row['name']:<24}{row['forward_backward_s'] * 1e3:>10,.0f}{row['optimizer_s'] * 1e3:>10,.0f}"
          f"{row['step_s'] * 1e3:>10,.0f}{said[0]:>8}{row['step_bytes'] / 1e6:>10,.0f}{said[1]:>8}"
          f"{row['all_bytes'] / 1e6:>10,.0f}{said[2]:>8}{row['rows']:>10,}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, nargs="+", default=[10_000, 100_000, VOCABULARY])
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/softmax.json"), metavar="FILE")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "date": date.today().isoformat(), "torch": torch.__version__, "machine": platform.machine(),
        "threads": torch.get_num_threads(), "bf16": options.bf16, "tokens": TOKENS, "samples": SAMPLES, "results": [],
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for words in options.words:
        counts, source = counts_of(words)
        # NumPy, since a torch that has run threads cannot be forked
        drawn = np.random.default_rng(0).choice(words, TOKENS, p=counts / counts.sum())
        for hidden in options.hidden:
            print(f"\nV = {words:,}, H = {hidden}, {TOKENS:,} tokens ({len(set(drawn.tolist()))} different; {source}), "
                  f"{torch.get_num_threads()} threads, {'bf16' if options.bf16 else 'fp32'}: ms and MB, × of {PLAIN}\n"
                  f"  {'':<24}{'fwd+bwd':>10}{'optimizer':>10}{'step':>10}{'':>8}{'step MB':>10}{'':>8}{'all MB':>10}"
                  f"{'':>8}{'rows':>10}", flush=True)  # fmt: skip
            plain = None
            for name in options.contestants:
                if needed(name, words, hidden) + SPARE_BYTES > available():
                    print(f"  {name:<24}skipped: it needs {needed(name, words, hidden) / 1e9:.1f} GB, "
                          f"{available() / 1e9:.1f} are free", flush=True)  # fmt: skip
                    continue
                row = in_a_child(name, words, hidden, options.bf16, torch.from_numpy(drawn))
                if row is None:
                    print(f"  {name:<24}stopped")
                    continue
                plain = row if name == PLAIN else plain
                show(row, plain)
                record["results"].append(row)
                options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.json}")


if __name__ == "__main__":
    main()
