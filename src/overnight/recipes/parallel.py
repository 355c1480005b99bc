"""How a recipe's ranks train together: ``--parallel``, with the plan that fits the recipe's model."""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from overnight.errors import UserError

WAYS = ("ddp", "fsdp", "sampled", "local", "async")
WHOLE_WAYS = ("ddp", "fsdp")
"""That need no plan, and are the same training as on one process."""
SHARE, FREQUENT = 0.1, 0.02
"""Of a vocabulary under a full softmax: the words of a step, and of these the most frequent."""
FREQUENT_OF_SAMPLES = 0.2


def check_way(name: str | None, ways: Sequence[str] = WAYS) -> None:
    """Raise a UserError for a way that there is not, for two at once, and for one that is not among ``ways``."""
    if name is None or name in ways:
        return
    several = [part for part in re.split(r"[\s,+&/]+", name) if part]
    if len(several) > 1 and set(several) <= set(WAYS):
        raise UserError(
            f"--parallel {name} names {len(several)} ways to train together, and each takes the gradients for itself"
            + (": fsdp keeps no whole ones that the others could exchange." if "fsdp" in several else "."),
            "Choose one of them.",
        )
    if name in WAYS:
        raise UserError(
            f"This recipe has no plan for --parallel {name}.",
            f"Choose one of {', '.join(ways)}, or name the constructor with your own settings (docs/parallel.md).",
        )
    near = difflib.get_close_matches(name, ways, n=1)
    raise UserError(
        f"There is no --parallel {name!r}.", f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(ways)}."
    )


def whole_parallel(name: str | None, layers: Sequence[str]) -> "partial[Any] | None":
    """The component of a way that needs no plan of rows: ddp, or fsdp that puts these layers together one at a time."""
    check_way(name, WHOLE_WAYS)
    return parallel_of(name, {}, layers)


def parallel_of(name: str | None, plan: dict[str, Any], layers: Sequence[str] = ()) -> "partial[Any] | None":
    """The component of a way; its rows, where it samples them, are those of ``plan``."""
    check_way(name)
    if name is None:
        return None
    if name == "async":
        from overnight.comm.asynchronous import asynchronous

        return partial(asynchronous, **plan)
    from overnight.comm import strategies

    if name == "sampled":
        return partial(strategies.sampled, **plan)
    if name == "fsdp":
        return partial(strategies.fsdp, layers=tuple(layers)) if layers else partial(strategies.fsdp)
    return partial(strategies.local if name == "local" else strategies.ddp)


def byte_plan() -> dict[str, Any]:
    """Of a byte model half of the units of its recurrent matrices; its vocabulary is small."""
    gates = "model.layers.*.gates"
    return {"hidden": ((f"{gates}.*_to_gates.weight_v", 4), (f"{gates}.*_to_m.weight_v", 1)), "rate": 0.5}


def word_plan(kind: str, gates: str, output: str, vocab_size: int, tied: bool, rows: bool) -> dict[str, Any]:
    """Of a word model some words of the output layer, the embedding's rows of the batch, and half of the hidden units.

    Args:
        kind: lstm, rnn or fnn.
        gates: of an LSTM.
        output: specification of the output layer.
        vocab_size: V.
        tied: the embedding is the output's weight.
        rows: gradients of the embedding and of a sampled output are sparse.
    """
    layer, _, samples = output.partition(":")
    plan: dict[str, Any] = {}
    if layer == "full":
        # every word has a gradient, so that the rows of the batch are all rows
        plan |= {"rows": _output(tied), "random": SHARE - FREQUENT, "frequent": FREQUENT, "touched": False}
    elif layer in ("sampled", "nce"):
        share = min(1.0, int(samples) / vocab_size) if samples.isdigit() else SHARE
        frequent = min(FREQUENT_OF_SAMPLES * share, 0.5)
        plan |= {"rows": _output(tied), "random": (share - frequent) / (1 - frequent), "frequent": frequent}
    if not tied and not rows:
        plan["embeddings"] = ("model.embedding.weight",)
    hidden = _hidden(kind, gates)
    return plan | ({"hidden": hidden, "rate": 0.5} if hidden else {})


def _output(tied: bool) -> Sequence[str]:
    return ("model.output.*", "model.embedding.weight") if tied else ("model.output.*",)


def _hidden(kind: str, gates: str) -> tuple[tuple[str, int], ...]:
    if kind == "fnn":
        return (("model.input.weight", 1),)
    if kind == "rnn":
        return (("model.input.weight", 1), ("model.recurrent.weight", 1))
    if gates.startswith("grouped"):
        return ()  # its units are not the first dimension
    name = "rank_to_gates" if gates.startswith("factorized") else "*_to_gates"
    return ((f"model.recurrent.layers.*.gates.{name}.weight", 4),)
