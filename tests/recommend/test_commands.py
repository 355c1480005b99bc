"""`overnight evaluate` and `recommend` of a recommender, and its page."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from oracles.ratings import write_ratings

from overnight.cli import main
from overnight.cli.outcome import print_outcome
from overnight.errors import UserError
from overnight.recipes.recommender import recommender
from overnight.recommend.estimator import Recommender
from overnight.recommend.given import read_user
from overnight.report import write_report
from overnight.train.launch import Options, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommender")
    file = write_ratings(folder / "ratings.csv", 60, 30)
    made = recommender(file, hidden=(8,), batch_size=8, epochs=4, lr=0.01, split="time", valid_share=0.1)
    train(replace(made, precision="fp32", threads=1, evaluations=4, log_every=2), folder / "run",
          Options(device="cpu", quiet=True))  # fmt: skip
    return folder / "run"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    last = json.loads(said(capsys, "evaluate", str(run), "--checkpoint", "last", "--json"))
    final = summary["final"]
    assert last["split"] == final["split"] == "valid"
    assert last["rmse"] == pytest.approx(final["rmse"], abs=1e-6)
    assert last["ranking"]["of"][0]["recall"] == pytest.approx(final["ranking"]["of"][0]["recall"])
    assert last["by_activity"][0]["rmse"] == pytest.approx(final["by_activity"][0]["rmse"], abs=1e-6)
    assert last["baselines"] == summary["baselines"]
    assert [item["name"] for item in summary["baselines"]] == ["the mean of all ratings", "damped biases"]
    text = said(capsys, "evaluate", str(run), "--split", "test", "--k", "3", "5", "--relevant", "1")
    assert re.search(r"test: RMSE \d\.\d{4} \(95 % interval", text)
    for part in ("this model", "damped biases", "the mean of all ratings", "EASE", "the most rated items", "@3", "@5"):
        assert part in text, part
    assert "Lists: held-out items of at least 1 of" in text
    for words, why in (
        (["--split", "train"], "is shown its training ratings"),
        (["--dynamic"], "are for text"),
        (["--k", "0"], "Lists of (0,) items cannot be"),
        (["--relevant", "99"], "No user has a held-out item"),
    ):
        assert why in said(capsys, "evaluate", str(run), *words, code=2)


def test_recommend(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = Recommender.load(run)
    lines = said(capsys, "recommend", str(run), "--user", "u3", "-n", "4").splitlines()
    assert lines == [f"{rating:.3f}\t{item}" for item, rating in loaded.recommend("u3", 4)]
    found = json.loads(said(capsys, "recommend", str(run), "--user", "u3", "--items", "i1", "i7", "--json"))
    np.testing.assert_allclose([one["rating"] for one in found["items"]], loaded.predict(["u3", "u3"], ["i1", "i7"]))
    mine = tmp_path / "mine.csv"
    mine.write_text("rating,movieId\n3,i4\n-1,i5\n")
    lines = said(capsys, "recommend", str(run), "--ratings", str(mine), "--number", "3").splitlines()
    assert lines == [f"{one.rating:.3f}\t{one.item}" for one in loaded.fold_in({"i4": 3, "i5": -1}).recommend(3)]
    assert main(["recommend", str(run), "--user", "nobody", "-n", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "overnight: User nobody has no training rating; the biases answer.\n"
    assert len(captured.out.splitlines()) == 2
    for words, why in (
        (["--user", "u1", "--ratings", str(mine)], "Whom to recommend to is not clear"),
        ([], "Whom to recommend to is not clear"),
        (["--user", "u1", "-n", "0"], "0 items cannot be recommended"),
        (["--ratings", str(tmp_path / "none.csv")], "none.csv cannot be read"),
    ):
        assert why in said(capsys, "recommend", str(run), *words, code=2)
    assert "holds no recommender" in said(capsys, "recommend", str(tmp_path), "--user", "u1", code=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i1 5\ni2 3.5\n", (["i1", "i2"], [5.0, 3.5])),
        ("7\t5\n8\t-1\n", (["7", "8"], [5.0, -1.0])),
        ("\ufeffstars,note,asin\n4,nice,B0\n", (["B0"], [4.0])),
        ("", "is empty"),
        ("item,rating\ni1\n", "row 2 has 1 fields"),
        ("i1,5\n\ni2,good\n", "row 3: the rating 'good' is no number"),
        ("what,stars\ni1,5\n", r"0 of its columns \(what, stars\) may be the item"),
    ],
)
def test_ratings_of_a_new_user(tmp_path: Path, text: str, expected: object) -> None:
    (tmp_path / "mine.csv").write_text(text)
    if isinstance(expected, tuple):
        assert read_user(tmp_path / "mine.csv") == expected
    else:
        with pytest.raises(UserError, match=str(expected)):
            read_user(tmp_path / "mine.csv")


def test_what_a_run_says_in_the_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_outcome(run, json.loads((run / "summary.json").read_text())) == 0
    text = capsys.readouterr().out
    assert "NDCG" in text
    assert "EASE" in text
    assert f"recommend   overnight recommend {run} --user ID" in text


def test_the_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said(capsys, "list")
    assert re.search(r"Presets of recommender .*\n\n  small .*\n  netflix +layers 512, 512, 1024, momentum", listed)


def test_the_page(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="jinja2 is not installed (the extra report)")
    final = json.loads((run / "summary.json").read_text())["final"]
    html = unescape(write_report([run], tmp_path / "page.html").read_text())
    for part in ("Held-out RMSE", "damped biases", "Held-out ratings", "Error by activity", "Error by time", "EASE",
                 f"{final['rmse']:.4f}", f"{final['ranking']['of'][1]['ndcg'][0]:.4f}", "recall@10"):  # fmt: skip
        assert part in html, part
    assert re.search(r"The run's RMSE is [\d.]+ % (lower|higher) than that of", html)
    assert "bits" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.DOTALL)
    training = re.search(r"<h3>RMSE.*?</figure>", html, re.DOTALL)
    assert training
    assert 'class="reference-name"' in training[0]
    twice = write_report([run, _again(run, tmp_path / "other")], tmp_path / "two.html").read_text()
    assert twice.count("<h3>Error by activity") == 2


def test_a_page_of_a_broken_record(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="jinja2 is not installed (the extra report)")
    broken = _again(run, tmp_path / "broken")
    summary = json.loads((broken / "summary.json").read_text())
    summary["final"]["by_activity"] = [{"low": "x"}]
    (broken / "summary.json").write_text(json.dumps(summary))
    html = write_report([broken], tmp_path / "page.html").read_text()
    assert "The parts of the error of broken could not be read and were left out." in html
    for name in ("by_activity", "by_time", "ranking"):
        summary["final"].pop(name)
    (broken / "summary.json").write_text(json.dumps(summary))
    assert "Held-out ratings" not in write_report([broken], tmp_path / "page.html").read_text()


def _again(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("run.json", "metrics.jsonl", "eval.jsonl", "summary.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder
