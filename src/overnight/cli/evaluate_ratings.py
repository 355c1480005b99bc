"""`overnight evaluate RUN` of a recommender: errors and lists over a whole split, beside what it has to beat."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_rating_run(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the ratings cannot be used, or a setting does not apply.
    """
    from rich.console import Console

    from overnight.cli.rating_table import left_out, rating_table
    from overnight.errors import UserError
    from overnight.evaluate.ratings import errors_of_baselines, record_of
    from overnight.recommend.estimator import Recommender
    from overnight.recommend.storage import run_ratings
    from overnight.train.checkpoint import choose_checkpoint
    from overnight.train.precision import choose_precision

    if options.dynamic or options.lanes is not None:
        raise UserError("--dynamic and --lanes are for text; this run reads ratings.", "Leave them out.")
    if options.split == "train":
        raise UserError("A recommender is shown its training ratings.", "Choose --split valid or test.")
    settings, splits = run_ratings(options.run, options.data)
    if not len(splits.split(options.split)):
        raise UserError(f"Split {options.split} of these ratings is empty.", "Choose another with --split.")
    loaded = Recommender.load(options.run, data=options.data, checkpoint=options.checkpoint, device=options.device)
    autocast = choose_precision(loaded.model_.input.device, options.precision).dtype
    record, found = record_of(
        loaded.model_, splits, options.split, settings.by, autocast=autocast, parts=True, k=options.k,
        relevant=options.relevant,
    )  # fmt: skip
    others = errors_of_baselines(splits, options.split, settings.by)
    step = int(choose_checkpoint(options.run, options.checkpoint).name)
    if options.json:
        import orjson

        said: dict[str, Any] = {"run": str(options.run), "step": step, "precision": options.precision, **record}
        print(orjson.dumps(said | {"baselines": others}, option=orjson.OPT_INDENT_2).decode())
        return 0
    console = Console(highlight=False)
    print(f"{options.split}: RMSE {found.rmse:.4f} (95 % interval {found.low:.4f} to {found.high:.4f})")
    print(f"{found.ratings:,} ratings of {found.users:,} {settings.by}s in {found.seconds:.1f} s; step {step:,}")
    console.print(rating_table(record, others))
    for sentence in left_out(record):
        console.print(sentence, soft_wrap=True)
    return 0
