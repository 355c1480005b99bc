"""`overnight evaluate RUN` of a word model: exact perplexity over a whole split."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_word_run(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the corpus cannot be used, or a setting is out of its range.
    """
    from overnight.cli.evaluate import progress_bar
    from overnight.errors import UserError
    from overnight.evaluate.scoring import Dynamic
    from overnight.evaluate.words import evaluate_words, load_word_model, word_baselines
    from overnight.train.precision import choose_precision

    loaded = load_word_model(options.run, options.checkpoint, options.device)
    corpus = loaded.open(options.data)
    stream = corpus.split(options.split)
    if not len(stream):
        raise UserError(f"Split {options.split} of {corpus.folder} is empty.", "Choose another with --split.")
    for shard in stream.shards:
        shard.verify()
    dynamic, length = None, 5 if options.dynamic_length is None else options.dynamic_length
    if options.dynamic:
        dynamic = Dynamic(options.dynamic_lr, options.dynamic_decay, length)
    lanes = options.lanes if options.lanes is not None else 1 if dynamic is not None else 16
    with progress_bar() as progress:
        found = evaluate_words(
            loaded.model,
            stream,
            eos=corpus.eos,
            vocab_size=corpus.vocab_size,
            lanes=lanes,
            reset=loaded.run["run"].get("data", {}).get("kwargs", {}).get("reset", "never"),
            autocast=choose_precision(loaded.device, options.precision).dtype,
            dynamic=dynamic,
            on_progress=progress,
        )
    others = word_baselines(corpus=str(corpus.folder), split=options.split) if options.baselines else []
    policy = "scored" if corpus.eos is not None else "absent"
    if options.json:
        import orjson

        record: dict[str, Any] = {"run": str(options.run), "step": loaded.step, "corpus": str(corpus.folder)}
        record |= {"split": options.split, "precision": options.precision, "eos": policy, **vars(found)}
        record |= {"dynamic": vars(dynamic)} if dynamic is not None else {}
        record |= {"baselines": others} if options.baselines else {}
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    known = math.isfinite(found.low)
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}" if known else "too few words for an interval"
    how = ", dynamic evaluation" if dynamic is not None else ""
    print(f"{options.split}: perplexity {found.perplexity:.2f} ({interval}){how}")
    print(
        f"{found.words:,} words, all of the split, ends of sentences {policy}, in {found.seconds:.1f} s; "
        f"step {loaded.step:,}; {corpus.folder}"
    )
    for other in others:
        print(f"{other['name']}: perplexity {other['perplexity']:.2f}")
    return 0
