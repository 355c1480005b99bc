"""`overnight classify train` and `overnight classify predict`: a run's features → classes of texts."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from overnight.data.labelled import LabelledSet
    from overnight.evaluate.load import ByteModel

_RUN_DEFAULT = tyro.conf.arg(metavar="RUN", help_behavior_hint="")


@dataclass(frozen=True)
class Train:
    """Train a classifier on labelled texts, and measure what the run's units know of them.

    L1 logistic regression on the cell state after each text. C is chosen on the dev split, or by cross-validation
    where there is none. Writes RUN/transfer/NAME: the classifier, and results.json, which overnight report shows.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help_behavior_hint="")]
    """csv, tsv, json, jsonl, parquet (also .gz, .zst), or lines of "label text"; a folder of train, dev and test; or
    the name of a folder in that of OVERNIGHT_DATA, such as sst2. Without a test split, a fifth becomes one."""
    run: Annotated[Path, _RUN_DEFAULT]
    """The folder that overnight train wrote."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the set's)")] = None
    """Of the classifier."""
    dev: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The dev split, where DATA is a file."""
    test: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The test split, where DATA is a file."""
    text_field: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: where one is obvious)")
    ] = None
    """The field or column with the text."""
    label_field: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: where one is obvious)")
    ] = None
    """The field or column with the label."""
    format: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: by the name)")] = None
    """Format of the files, such as jsonl or csv.gz; txt is lines of "label text"."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: rare classes weigh more, and C is chosen by balanced accuracy."""
    standardise: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fit on features with mean 0 and deviation 1; the paper's are raw."""
    few_shot: bool = True
    """Whether to draw the curve over 10, 30, 100, … labels."""
    ngrams: bool = True
    """Whether to fit a bag of n-grams beside it."""
    layer: int = -1
    """Whose cell state; 0 is the lowest, -1 the highest."""
    pool: Literal["last", "mean", "max"] = "last"
    """The state after the last byte, or over the states after every byte."""
    tanh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The hyperbolic tangent of the cell state."""
    seed: int = 0
    """Of the split, the folds, the fits and the samples."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Keep the features here, so that a second time they are not computed again."""
    lanes: int = 128
    """Texts read side by side."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print results.json instead of the tables."""


@dataclass(frozen=True)
class Predict:
    """Classes and probabilities of texts, one record out for each one in, as they come."""

    texts: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
    """txt (a text a line), csv, tsv, json, jsonl or parquet, also .gz or .zst; - is standard input."""
    run: Annotated[Path, _RUN_DEFAULT]
    """The run whose model the classifier was trained with."""
    classifier: Annotated[str | None, tyro.conf.arg(metavar="NAME|FOLDER", help_behavior_hint="")] = None
    """Its name in the run, or its folder; not needed where the run has one only."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: standard output)")] = None
    """Where to; .jsonl gives JSON lines. It is whole or absent."""
    output: Annotated[
        Literal["csv", "jsonl"] | None,
        tyro.conf.arg(metavar="csv|jsonl", help_behavior_hint="(default: by --out, or csv)"),
    ] = None
    """csv: label, a probability for each class, the text; jsonl: {label, probabilities, text}."""
    text_field: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: where one is obvious)")
    ] = None
    """The field or column with the text."""
    format: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: by the name; of - txt)")
    ] = None
    """Format of FILE, such as jsonl or csv.gz."""
    batch: int = 512
    """Texts classified at once, at most; of a stream, those that have arrived."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="best|last|STEP")] = "best"
    """Which weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is one."""


_ABOUT = """usage: overnight classify train DATA --run RUN [OPTIONS]
       overnight classify predict FILE --run RUN [OPTIONS]

Features of a trained byte model → classes of texts.
"""


def main(argv: list[str]) -> int:
    """Run the command with `argv` (without the program's name) and return its exit code.

    Raises:
        UserError: the run, the classifier or the texts cannot be used, or a setting is out of its range.
    """
    from overnight.errors import UserError

    if not argv or argv[0] in ("-h", "--help"):
        print(_ABOUT)
        for name, kind in (("train", Train), ("predict", Predict)):
            with suppress(SystemExit):
                tyro.cli(kind, args=["--help"], prog=f"overnight classify {name}")
        return 0
    if argv[0] == "train":
        return _train(tyro.cli(Train, args=argv[1:], prog="overnight classify train"))
    if argv[0] == "predict":
        return _predict(tyro.cli(Predict, args=argv[1:], prog="overnight classify predict"))
    raise UserError(f"classify {argv[0]} is not known.", "Give classify train DATA or classify predict FILE.")


def _train(options: Train) -> int:
    from overnight.data.labelled import labelled_set
    from overnight.errors import UserError
    from overnight.evaluate.load import load_byte_model
    from overnight.evaluate.transfer import FeatureKind, TransferSettings, study
    from overnight.evaluate.transfer.page import text_of

    data = labelled_set(
        options.data,
        dev=options.dev,
        test=options.test,
        text_field=options.text_field,
        label_field=options.label_field,
        format=options.format,
        seed=options.seed,
    )
    name = options.name or data.name
    if not name or name.startswith(".") or any(c in "/\\\0" for c in name):
        raise UserError(f"{name!r} cannot be the name of a folder.", "Choose another --name.")
    model = load_byte_model(options.run, options.checkpoint, options.device)
    kind = FeatureKind(options.layer, options.pool, options.tanh)
    settings = TransferSettings(
        options.class_weight,
        options.standardise,
        few_shot=options.few_shot,
        ngrams=options.ngrams,
        seed=options.seed,
    )
    features = [_features(model, part and part.texts, split, kind, options) for split, part in _splits(data).items()]
    done = study(data, *features, digest=model.digest, kind=kind, settings=settings, on_progress=_tell)
    _tell("")
    folder = options.run / "transfer" / name
    results = done.results | {"model": {"run": str(options.run), "step": model.step}, "heat": _heat(model, data, done)}
    done.classifier.save(folder, {"results.json": results})
    if options.json:
        import orjson

        print(orjson.dumps(results, option=orjson.OPT_INDENT_2).decode())
    else:
        print(text_of(results))
        print(f"\n{folder}: the classifier and results.json; overnight report {options.run} shows them.")
    return 0


def _splits(data: "LabelledSet") -> dict[str, Any]:
    return {"train": data.train, "dev": data.dev, "test": data.test}


def _features(model: "ByteModel", texts: list[str] | None, split: str, kind: Any, options: Train) -> Any:
    if texts is None:
        return None
    _tell(f"features of {len(texts):,} {split} texts")
    return model.features(
        texts, layer=kind.layer, pool=kind.pool, tanh=kind.tanh, cache=options.cache, lanes=options.lanes
    )


def _heat(model: "ByteModel", data: "LabelledSet", done: Any) -> list[dict[str, Any]]:
    """The best unit along a few test texts."""
    from overnight.evaluate.transfer.heat import heat_of

    unit, layer = done.classifier.best_unit, done.classifier.kind.layer
    found = []
    for index in done.worth_showing:
        text = data.test.texts[index]
        chosen = int(done.test_probabilities[index].argmax())
        record = {
            "label": data.test.labels[index],
            "predicted": data.classes[chosen],
            "probability": float(done.test_probabilities[index, chosen]),
        }
        found.append(record | heat_of(lambda text: model.trace(text, unit, layer=layer), text))
    return found


def _predict(options: Predict) -> int:
    from overnight.data.labelled import find_source, read_records
    from overnight.errors import UserError
    from overnight.evaluate.load import load_byte_model
    from overnight.evaluate.transfer.prediction import batches, find_classifier, write_predictions

    if options.batch < 1:
        raise UserError(f"--batch {options.batch} cannot work.", "Give at least 1.")
    source = find_source(options.texts, options.format or ("txt" if options.texts == "-" else None))
    classifier = find_classifier(options.run, options.classifier)
    model = load_byte_model(options.run, options.checkpoint, options.device)
    classifier.check(model.digest, options.run)
    records = read_records(source, text_field=options.text_field, labelled=False)
    groups = batches((record.text for record in records), options.batch, live=options.texts == "-")
    chosen = options.output or ("jsonl" if options.out and options.out.suffix in (".jsonl", ".ndjson") else "csv")
    count = write_predictions(model, classifier, groups, chosen, options.out)
    if not count:
        raise UserError(f"{options.texts} holds no text.", "Give at least one line or record.")
    if options.out:
        print(f"{options.out}: {count:,} texts")
    return 0


def _tell(message: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
