"""`overnight evaluate RUN` of a fine-tuned BERT: accuracy over a whole split of its labelled texts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_text_run(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the texts cannot be used, or a setting does not apply.
    """
    import torch

    from overnight.errors import UserError
    from overnight.evaluate.labels import heldout_texts
    from overnight.train.checkpoint import load_model
    from overnight.train.precision import choose_precision

    if options.dynamic or options.lanes is not None:
        raise UserError("--dynamic and --lanes are for language models; this run names classes.", "Leave them out.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    loaded = load_model(options.run, options.checkpoint)
    settings: dict[str, Any] = dict(loaded.run["run"]["data"]["kwargs"])
    if options.data is not None:
        settings |= {"corpus": str(options.data), "dev": None, "test": None}
    split = "dev" if options.split == "valid" else options.split
    dtype = choose_precision(device, options.precision).dtype
    found = heldout_texts(
        model=loaded.model.to(device), autocast_dtype=dtype, final=True, **{**settings, "split": split}
    )
    if options.json:
        import orjson

        record = {"run": str(options.run), "step": loaded.step, "precision": options.precision} | found
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    interval = f"95 % interval {found['low']:.2%} to {found['high']:.2%}"
    print(f"{split}: accuracy {found['text_accuracy']:.2%} ({interval}), loss {found['loss']:.4f}")
    print(f"{found['texts']:,} texts; step {loaded.step:,}; {settings['corpus']}")
    return 0
