"""`overnight evaluate RUN` of a classifier of images: accuracy over a whole split."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overnight.cli.evaluate import Evaluate


def evaluate_image_run(options: "Evaluate") -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        UserError: the run, its checkpoint or the images cannot be used, or a setting does not apply.
    """
    import torch

    from overnight.cli.evaluate import progress_bar
    from overnight.data.images.sources import open_images
    from overnight.errors import UserError
    from overnight.evaluate.images import evaluate_images, image_baselines
    from overnight.train.checkpoint import load_model
    from overnight.train.precision import choose_precision

    if options.dynamic or options.lanes is not None:
        raise UserError("--dynamic and --lanes are for text; this run reads images.", "Leave them out.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    loaded = load_model(options.run, options.checkpoint)
    folder = options.data or loaded.corpus
    if folder is None:
        raise UserError(f"{options.run} does not say which images it was trained on.", "Name a folder with --data.")
    settings = loaded.run["run"].get("data", {}).get("kwargs", {})
    names = ("valid", "classes", "size", "bad_images")
    part: dict[str, Any] = {name: settings[name] for name in names if name in settings}
    margin = (loaded.run["run"].get("evaluate") or {}).get("kwargs", {}).get("margin")
    part |= {"margin": margin} if margin is not None else {}
    images = open_images(folder, options.split, **part)
    with progress_bar() as progress:
        autocast = choose_precision(device, options.precision).dtype
        found = evaluate_images(loaded.model.to(device), images, autocast=autocast, on_progress=progress)
    others = image_baselines(corpus=str(folder), split=options.split, **part) if options.baselines else []
    if options.json:
        import orjson

        record: dict[str, Any] = {"run": str(options.run), "step": loaded.step, "images_folder": str(folder)}
        record |= {"split": options.split, "precision": options.precision, **vars(found)}
        record |= {"baselines": others} if options.baselines else {}
        print(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
        return 0
    interval = f"95 % interval {found.low:.2%} to {found.high:.2%}"
    print(f"{options.split}: accuracy {found.accuracy:.2%} ({interval}), loss {found.loss:.4f}")
    print(f"{found.images:,} images in {found.seconds:.1f} s; step {loaded.step:,}; {folder}")
    for other in others:
        print(f"{other['name']}: accuracy {other['accuracy']:.2%}")
    return 0
