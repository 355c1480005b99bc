"""`overnight evaluate RUN` of a pre-trained BERT: accuracy of hidden word pieces and of next sentences."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_bert(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the corpus cannot be used, its word pieces are others than the model's,
            or a setting does not apply.
    """
    import torch

    from overnight.cli.evaluate import progress_bar
    from overnight.data.masked import MaskedCorpus
    from overnight.errors import UserError
    from overnight.evaluate.masked import evaluate_masked, heldout_batches, masked_baselines
    from overnight.train.checkpoint import load_model
    from overnight.train.precision import choose_precision

    if options.dynamic or options.lanes is not None:
        raise UserError(
            "--dynamic and --lanes are for language models; this run guesses hidden words.", "Leave them out."
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    loaded = load_model(options.run, options.checkpoint)
    folder = options.data or loaded.corpus
    if folder is None:
        raise UserError(f"{options.run} does not say which corpus it was trained on.", "Name one with --data.")
    corpus = MaskedCorpus(folder)
    if corpus.vocabulary_digest != loaded.run.get("derived", {}).get("vocabulary_digest"):
        raise UserError(
            f"The word pieces of {folder} are not those that {options.run} was trained with.",
            "Prepare it with --tokenizer and the tokenizer.json of the run's corpus.",
        )
    said = loaded.run["run"].get("data", {}).get("kwargs", {})
    names = ("length", "share", "whole_words", "next_sentence")
    part = {name: said[name] for name in names if name in said}
    batches = heldout_batches(corpus, options.split, **part)
    with progress_bar() as progress:
        autocast = choose_precision(device, options.precision).dtype
        found = evaluate_masked(loaded.model.to(device), batches, autocast=autocast, on_progress=progress)
    others = masked_baselines(corpus=str(folder), split=options.split, **part) if options.baselines else []
    if options.json:
        import orjson

        record: dict[str, Any] = {"run": str(options.run), "step": loaded.step, "corpus": str(folder)}
        record |= {"split": options.split, **vars(found)} | ({"baselines": others} if options.baselines else {})
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    interval = f"95 % interval {found.low:.2%} to {found.high:.2%}"
    print(f"{options.split}: {found.masked_accuracy:.2%} of the hidden word pieces ({interval}), loss {found.loss:.4f}")
    if math.isfinite(found.next_sentence_accuracy):
        print(f"next sentences: {found.next_sentence_accuracy:.2%}, loss {found.next_sentence_loss:.4f}")
    scored = f"{found.pieces:,} pieces of {found.sequences:,} sequences in {found.seconds:.1f} s"
    print(f"{scored}; step {loaded.step:,}; {folder}")
    for other in others:
        print(f"{other['name']}: {other['masked_accuracy']:.2%}")
    return 0
