"""What a run's units know of labelled texts, on the page and as a picture."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overnight.errors import UserError
from overnight.report.heat_png import write_heat_png

RunMaker = Callable[..., Path]
PageReader = Callable[..., Any]

HOSTILE = "<script>alert(1)</script>"
TEXT = f"\n {HOSTILE}\x1b & é "
RESULTS: dict[str, Any] = {
    "format": "overnight-transfer/1",
    "data": {"split": "the set's own", "counts": {"train": {"0": 500, "1": 500}, "test": {"0": 50, "1": 50}}},
    "features": {"digest": "a" * 64, "layer": -1, "pool": "last", "tanh": False, "hidden_size": 64},
    "classes": ["neg", HOSTILE],
    "majority": 0.5,
    "all_units": {
        "test_accuracy": 0.812, "low": 0.75, "high": 0.86, "C": 0.125, "chosen_on": "dev", "nonzero": 33,
        "balanced_accuracy": 0.8, "macro_f1": 0.8,
    },
    "best_unit": {
        "unit": 23, "sign": -1, "threshold": 0.25, "means": [0.5, -0.5], "test_accuracy": 0.66,
    },
    "by_number_of_units": [{"units": n, "test_accuracy": a} for n, a in ((1, 0.6), (2, 0.7), (64, 0.812))],
    "confusion": [[40, 10], [9, 41]],
    "calibration": {
        "bins": [{"low": 0.5, "high": 0.6, "count": 9, "confidence": 0.55, "accuracy": 0.5}], "ece": 0.05, "brier": 0.2,
    },
    "histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [[10, 40], [45, 5]]},
    "baseline": {"name": "words", "test_accuracy": 0.83},
    "few_shot": [
        {"learner": name, "labels": size, "mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        for name, mean in (("units", 0.6), ("words", 0.7)) for size in (10, 100)
    ],
    "heat": [
        {
            "label": "neg", "predicted": HOSTILE, "probability": 0.75, "text": TEXT, "cut": 7,
            "values": [0.25 - 0.1 * i for i in range(len(TEXT))],
        }
    ],
}  # fmt: skip


def put(run: Path, name: str = "reviews", **changes: Any) -> Path:
    folder = run / "transfer" / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(copy.deepcopy(RESULTS) | changes))
    return run


def test_a_run_without_transfer_has_no_such_section(make_run: RunMaker, page_of: PageReader) -> None:
    assert "Transfer" not in page_of(make_run(steps=100)).text


def test_the_results_are_on_the_page(make_run: RunMaker, page_of: PageReader) -> None:
    page = page_of(put(make_run(steps=100)))
    for said in (
        "81.2 75.0–86.0", "66.0 unit 23", "83.0", "50.0", "cell state after the last byte", "train 1,000, test 100",
        "33 of 64 units have a weight", "Few labels", "How many units", "Unit 23 % of the class", "Calibration",
        f"{HOSTILE} where it is below 0.25, else neg", f"given {HOSTILE} by all units with 75 %", "7 more characters",
    ):  # fmt: skip
        assert said in page.text, said
    assert ["neg", "4080.0 %", "1020.0 %"] in page.rows


def test_plots_have_their_own_axes(make_run: RunMaker, page_of: PageReader) -> None:
    page = page_of(put(make_run(steps=100)))
    lines = page.paths("Few labels of reviews", "labels")
    assert [line["data-label"] for line in lines if "data-label" in line] == ["units", "words"]
    assert [line["class"] for line in lines] == ["band t0", "curve t0", "dot t0", "band t1", "curve t1", "dot t1"]
    axes = {a["aria-label"]: a for tag, a in page.elements if tag == "svg" and "data-log" in a}
    assert axes["Few labels of reviews against labels"]["data-log"] == "1"
    assert axes["Unit 23 of reviews against cell state"]["data-log"] == "0"
    assert float(axes["Unit 23 of reviews against cell state"]["data-low"]) == -1.0
    # two classes: the first orange, the second blue, as in the coloured texts
    stairs = [line for line in page.paths("Unit 23 of reviews", "cell state") if line["class"].startswith("stairs")]
    assert [(line["class"], line["data-label"]) for line in stairs] == [("stairs t1", "neg"), ("stairs t0", HOSTILE)]


def test_texts_are_escaped_and_coloured_by_the_sign(make_run: RunMaker, page_of: PageReader) -> None:
    page = page_of(put(make_run(steps=100)))
    assert HOSTILE not in page.source
    heat = re.search(r'<p class="heat">(.*?)</p>', page.source, re.DOTALL)
    assert heat is not None
    shown = re.sub(r"<[^>]*>", "", heat[1])
    assert "&lt;script&gt;" in shown
    assert shown.startswith("↵ ")
    assert "␛ &amp; é" in shown
    # the value falls below the threshold of a unit with a negative sign: ever more the second class
    assert 'class="below"' not in heat[1]
    strengths = [int(value) for value in re.findall(r"--h:(\d+)%", heat[1])]
    assert strengths == sorted(strengths)
    assert strengths[-1] == 60


def test_several_runs_and_several_classes(make_run: RunMaker, page_of: PageReader) -> None:
    first, second = put(make_run("first", steps=100)), make_run("second", steps=100)
    best = RESULTS["best_unit"] | {"sign": 0, "threshold": None, "means": [0.0, 1.0, 2.0]}
    counts = {"edges": [0.0, 1.0], "counts": [[1], [2], [3]]}
    put(
        second, "stars", classes=["1", "2", "3"], best_unit=best, histogram=counts,
        confusion=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], few_shot=None, baseline=None,
    )  # fmt: skip
    page = page_of(first, second)
    assert "the class whose mean is nearest" in page.text
    rows = [row for row in page.rows if row and row[0] in ("first", "second") and "units" not in row[0]]
    assert any("reviews" in row for row in rows)
    assert any("stars" in row and "—" in row for row in rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "transfer/reviews/results.json could not be read and was left out."),
        ("[]", "could not be read"),
        (json.dumps(RESULTS | {"format": "overnight-transfer/9"}), "has the format 'overnight-transfer/9'"),
        (json.dumps({"format": "overnight-transfer/1"}), "could not be read"),
        (json.dumps(RESULTS | {"heat": [RESULTS["heat"][0] | {"values": [1.0]}]}), "could not be read"),
    ],
)
def test_what_cannot_be_read_is_said(make_run: RunMaker, page_of: PageReader, text: str, said: str) -> None:
    run = put(make_run(steps=100))
    (run / "transfer" / "reviews" / "results.json").write_text(text)
    assert said in page_of(run).text


def test_the_picture_has_the_colours(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    file = tmp_path / "heat.png"
    write_heat_png(file, [("aaaa\n$x$ é\ud800", [1.0] * 4 + [-1.0] * 7)], title="unit 3", columns=40)
    pixels = image.imread(file)[..., :3].reshape(-1, 3)
    blue = (pixels[:, 2] > 0.7) & (pixels[:, 0] < 0.4)
    orange = (pixels[:, 0] > 0.7) & (pixels[:, 2] < 0.4)
    assert 1.2 < orange.sum() / blue.sum() < 2.4
    with pytest.raises(ValueError, match="2 values for 1 characters"):
        write_heat_png(file, [("a", [1.0, 2.0])])
    with pytest.raises(UserError, match="cannot be written"):
        write_heat_png(tmp_path / "no" / "heat.png", [("a", [1.0])])
