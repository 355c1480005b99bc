"""`overnight evaluate RUN` of a translator: exact perplexity of a split, and BLEU of its translations."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_translator(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the corpus cannot be used, sacrebleu is not installed, or a setting has no
            meaning here.
    """
    from overnight.cli.evaluate import progress_bar
    from overnight.errors import UserError
    from overnight.evaluate.beam import Beam
    from overnight.evaluate.bleu import corpus_bleu
    from overnight.evaluate.translation import evaluate_pairs, translate
    from overnight.evaluate.translator import load_translator
    from overnight.train.precision import choose_precision

    if options.dynamic or options.baselines or options.lanes is not None:
        raise UserError(
            "A translator is not evaluated dynamically, in lanes or beside baselines.",
            "Leave out --dynamic, --lanes and --baselines.",
        )
    loaded = load_translator(options.run, options.checkpoint, options.device)
    corpus = loaded.open(options.data)
    corpus.verify()
    autocast = choose_precision(loaded.device, options.precision).dtype
    found = evaluate_pairs(loaded.model, corpus, options.split, autocast=autocast)
    record: dict[str, Any] = {"run": str(options.run), "step": loaded.step, "corpus": str(corpus.folder)}
    record |= {"split": options.split, "precision": options.precision, **vars(found)}
    if options.split != "train":
        settings = (loaded.run["run"].get("evaluate") or {}).get("kwargs", {})
        beam = Beam(*(settings.get(name, default) for name, default in (("beam", 5), ("alpha", 0.6), ("beta", 0.1))))
        with progress_bar() as progress:
            said = translate(
                loaded.model,
                corpus.text(options.split, "source"),
                corpus.coder("source"),
                corpus.coder("target"),
                beam=beam,
                autocast=autocast,
                on_progress=progress,
            )
        scored = corpus_bleu(said, corpus.text(options.split, "target"), tokenize=settings.get("tokenize", "13a"))
        record |= {"bleu": scored.bleu, "bleu_signature": scored.signature, "brevity_penalty": scored.brevity_penalty}
        record |= {"beam": vars(beam)}
    if options.json:
        import orjson

        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    known = math.isfinite(found.low)
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}" if known else "too few pairs for an interval"
    print(f"{options.split}: perplexity {found.perplexity:.2f} ({interval}), {found.words:,} words")
    if "bleu" in record:
        print(f"{options.split}: BLEU {record['bleu']:.2f} ({record['bleu_signature']})")
        print(
            f"beam {beam.size}, length normalisation {beam.alpha:g}, coverage penalty {beam.beta:g}; "
            f"brevity penalty {record['brevity_penalty']:.3f}"
        )
    print(f"step {loaded.step:,}; {corpus.folder}")
    return 0
