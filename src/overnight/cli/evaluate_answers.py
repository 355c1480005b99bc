"""`overnight evaluate RUN` of a BERT that answers questions: exact match and F1 over a file of SQuAD."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_answers(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the questions cannot be used, or a setting does not apply.
    """
    import torch

    from overnight.cli.evaluate import progress_bar
    from overnight.data.masked.spans import span_batches
    from overnight.data.masked.squad import squad_files
    from overnight.errors import UserError
    from overnight.evaluate.answers import answer_questions
    from overnight.train.checkpoint import load_model
    from overnight.train.precision import choose_precision

    if options.dynamic or options.lanes is not None:
        raise UserError("--dynamic and --lanes are for language models; this run answers questions.", "Leave them out.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    loaded = load_model(options.run, options.checkpoint)
    settings: dict[str, Any] = dict(loaded.run["run"]["data"]["kwargs"])
    held_out: dict[str, Any] = (loaded.run["run"].get("evaluate") or {}).get("kwargs", {})
    split = "dev" if options.split == "valid" else options.split
    place = Path(options.data or (held_out["corpus"] if split == "dev" else settings["corpus"]))
    if place.is_dir() or split == "test":
        files = squad_files(place if place.is_dir() else place.parent)
        if split not in files:
            raise UserError(f"{place} has no file {split}….json.", "Name the file with --data.")
        place = files[split]
    batches = span_batches(**{**settings, "corpus": str(place), "lanes": 1, "seed": 0})
    ways = {name: held_out[name] for name in ("longest", "silence") if name in held_out}
    with progress_bar() as progress:
        autocast = choose_precision(device, options.precision).dtype
        found = answer_questions(loaded.model.to(device), batches, autocast=autocast, on_progress=progress, **ways)
    if options.json:
        import orjson

        record = {"run": str(options.run), "step": loaded.step, "questions_file": str(place), "split": split}
        record |= {"precision": options.precision, **vars(found)}
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    interval = f"95 % interval {found.low:.2%} to {found.high:.2%}"
    print(f"{split}: F1 {found.f1:.2%} ({interval}), exact match {found.exact_match:.2%}")
    print(f"{found.questions:,} questions; step {loaded.step:,}; {place}")
    return 0
