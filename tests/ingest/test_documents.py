"""From text to documents and splits: cleaning, framing, hashing, duplicates, shards, workers."""

import gzip
import html
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from ingest.checks import all_documents, digest_of, documents_of, write_jsonl

from overnight.data.ingest import PrepareSettings, dedup, prepare
from overnight.data.ingest.clean import document_maker
from overnight.data.ingest.dedup import DigestTable
from overnight.errors import UserError

RANDOM = random.Random(7)
WORDS = ["night", "train", "été", "&amp;", "<b>", "東京", "a\n", '"', "the", "of"]
TEXTS = [" ".join(RANDOM.choices(WORDS, k=RANDOM.randrange(1, 40))) + f" {i}" for i in range(600)]


def make(text: str, **settings: Any) -> str:
    return document_maker(PrepareSettings(**settings))(text.encode()).decode()


def test_bytes_are_kept_by_default() -> None:
    text = " <b>caf\u00e9</b> &amp;\r\n\n \u2028\u00a0 "
    assert make(text) == text + "\n"
    assert make(text, framing="none") == text
    assert make("") == ""


def test_cleaning() -> None:
    assert make("a<br />b <!-- c --><IMG SRC='x'>", strip_tags=True, framing="none") == "a b   "
    assert make("1 < 2 > 0 <3 </ b>", strip_tags=True, framing="none") == "1 < 2 > 0 <3 </ b>"
    assert make("&lt;b&gt; &eacute;&#x263a; &amp;amp;", unescape_html=True, framing="none") == "<b> é☺ &amp;"
    assert make(" a \t\u00a0\n b ", collapse_whitespace=True, framing="none") == "a b"
    everything = {"strip_tags": True, "unescape_html": True, "collapse_whitespace": True}
    assert make("<p>x&nbsp;&lt;b&gt;</p>\n", **everything) == "x <b>\n"
    assert make("<p> </p>", **everything) == ""


def test_cleaning_keeps_bytes_that_are_not_utf8() -> None:
    maker = document_maker(PrepareSettings(strip_tags=True, unescape_html=True, collapse_whitespace=True))
    assert maker(b"<b>\xff&amp;\xe9t  \xed\xa0\x80") == b"\xff&\xe9t \xed\xa0\x80\n"


def test_tags_take_linear_time() -> None:
    for text in ("<a" * 200_000, "<!--" * 200_000, "<" * 400_000):
        assert make(text, strip_tags=True, framing="none") == text


def test_framing_of_the_reviews_paper() -> None:
    text = " \nGood &amp; cheap.\nTruly\r\n "
    assert make(text, framing="reviews") == "\n " + html.unescape(text).replace("\n", " ").strip() + " "
    assert make(" \n ", framing="reviews") == ""


def test_split_depends_on_the_content_alone(tmp_path: Path) -> None:
    settings = PrepareSettings(split=(8, 1, 1))
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "a", settings)
    shuffled = TEXTS[:]
    random.Random(1).shuffle(shuffled)
    write_jsonl(tmp_path / "b.jsonl", shuffled[:200], other=1)
    (tmp_path / "c.json").write_text(json.dumps([{"text": t} for t in shuffled[200:]]))
    prepare([tmp_path / "c.json", tmp_path / "b.jsonl"], tmp_path / "b", settings)
    first, second = documents_of(tmp_path / "a"), documents_of(tmp_path / "b")
    for split in first:
        assert sorted(first[split]) == sorted(second[split])
    order = [t.encode() + b"\n" for t in TEXTS]
    assert all(documents == sorted(documents, key=order.index) for documents in first.values())
    # 600 draws: five standard deviations around the shares.
    assert abs(manifest["splits"]["train"]["documents"] - 480) < 50
    assert abs(manifest["splits"]["valid"]["documents"] - 60) < 37


def test_the_hash_never_changes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [f"document {i}" for i in range(40)])
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareSettings(split=(8, 1, 1)))
    found = documents_of(tmp_path / "out")
    assert [int(d.split()[1]) for d in found["valid"]] == [32]
    assert [int(d.split()[1]) for d in found["test"]] == [4, 6, 12, 25]


def test_shares_of_zero(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareSettings(split=(0, 1, 1)))
    assert manifest["splits"]["train"] == {"bytes": 0, "documents": 0, "shards": []}
    assert len(all_documents(tmp_path / "out")) == 600
    prepare([tmp_path / "a.jsonl"], tmp_path / "one", PrepareSettings(split=(0, 0, 3), framing="none"))
    assert documents_of(tmp_path / "one")["test"] == [t.encode() for t in TEXTS]


def test_held_out_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:500])
    write_jsonl(tmp_path / "in" / "v.jsonl", TEXTS[450:])
    settings = PrepareSettings(split=(1, 5, 1), framing="none", dedup=True)
    manifest = prepare([tmp_path / "in"], tmp_path / "out", settings, valid=[tmp_path / "in" / "v.jsonl"])
    found = documents_of(tmp_path / "out")
    # The file lies in the folder too and is read once; what stands in both is dropped from the rest.
    assert found["valid"] == [t.encode() for t in TEXTS[450:]]
    assert sorted(found["train"] + found["test"]) == sorted(t.encode() for t in TEXTS[:450])
    assert 150 < len(found["test"]) < 300
    assert manifest["counts"]["duplicates"] == 50
    assert manifest["settings"]["heldout"] == ["valid"]
    everything = [tmp_path / "in" / "v.jsonl"]
    with pytest.raises(UserError, match="both valid and test"):
        prepare([tmp_path / "in"], tmp_path / "no", settings, valid=everything, test=everything)
    with pytest.raises(UserError, match="leaves no share"):
        prepare([tmp_path / "in"], tmp_path / "no", PrepareSettings(split=(0, 1, 0)), valid=everything)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("workers", [1, 2])
def test_duplicates(tmp_path: Path, workers: int) -> None:
    repeated = [TEXTS[i % 100] for i in range(300)] + ["last"]
    write_jsonl(tmp_path / "a.jsonl", repeated)
    settings = PrepareSettings(split=(3, 1, 1), dedup=True)
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "out", settings, workers=workers)
    assert manifest["counts"]["duplicates"] == 200
    assert sorted(all_documents(tmp_path / "out")) == sorted(t.encode() + b"\n" for t in [*TEXTS[:100], "last"])
    prepare([tmp_path / "a.jsonl"], tmp_path / "kept", PrepareSettings(split=(3, 1, 1)), workers=workers)
    assert len(all_documents(tmp_path / "kept")) == 301


def test_digest_table_is_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowded places, the end of the table and many doublings by small blocks, against Python's own set."""
    monkeypatch.setattr(dedup, "_BLOCK_BYTES", 160)
    rng = random.Random(3)
    prefixes = [bytes(8), b"\xff" * 8, b"\x80" + bytes(7)]
    digests = [rng.randbytes(16) for _ in range(3000)]
    digests += [rng.choice(prefixes) + rng.randrange(1, 500).to_bytes(8, "big") for _ in range(3000)]
    rng.shuffle(digests)
    table, known = DigestTable(tmp_path / "table", bits=2), set()
    for digest in digests:
        assert table.add(digest) == (digest not in known)
        known.add(digest)
    assert not any(table.add(digest) for digest in digests)
    table.close()
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


@pytest.mark.usefixtures("small_pieces")
def test_workers_and_pieces_do_not_change_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overnight.data.ingest import preparation

    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", TEXTS[:200])
    (folder / "b.txt").write_text("\r\n".join(t.replace("\n", "") for t in TEXTS[200:300]) + "\n\n\nend")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(write_jsonl(tmp_path / "c", TEXTS[300:]).read_bytes()))
    (folder / "d.txt").write_text("")
    settings = PrepareSettings(split=(3, 1, 1), document="line", shard_mb=0.005)
    small = prepare([folder], tmp_path / "small", settings)
    prepare([folder], tmp_path / "workers", settings, workers=3)
    monkeypatch.setattr(preparation, "PIECE_BYTES", 10**9)
    large = prepare([folder], tmp_path / "large", settings)
    assert digest_of(tmp_path / "small") == digest_of(tmp_path / "workers") == digest_of(tmp_path / "large")
    assert small == large == json.loads((tmp_path / "workers" / "manifest.json").read_text())
    assert small["counts"]["empty"] == 2
    assert len(small["splits"]["train"]["shards"]) > 2


def test_shards_keep_their_bound(tmp_path: Path) -> None:
    texts = [*("x" * 40 for _ in range(10)), "y" * 500, "z"]
    write_jsonl(tmp_path / "a.jsonl", texts)
    settings = PrepareSettings(split=(1, 0, 0), framing="none", shard_mb=0.0001)
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "out", settings)
    assert documents_of(tmp_path / "out")["train"] == [t.encode() for t in texts]
    assert [s["bytes"] for s in manifest["splits"]["train"]["shards"]] == [80] * 5 + [500, 1]


def test_settings_out_of_range() -> None:
    for wrong in ({"split": (0, 0, 0)}, {"split": (1, -1, 1)}, {"split": (1, float("nan"), 1)}, {"shard_mb": 0}):
        with pytest.raises(UserError):
            PrepareSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="max_document_mb is 65"):
        PrepareSettings(max_document_mb=65)


def test_the_reviews(tmp_path: Path) -> None:
    data = os.environ.get("OVERNIGHT_DATA")
    if not data:
        pytest.skip("OVERNIGHT_DATA does not name a folder of real data")
    source = Path(data) / "imdb" / "reviews.jsonl.gz"
    prepare([source], tmp_path / "out", PrepareSettings(framing="reviews", split=(1, 0, 0)))
    with gzip.open(source) as lines:
        texts = [json.loads(line)["text"] for line in lines]
    expected = [("\n " + html.unescape(t).replace("\n", " ").strip() + " ").encode() for t in texts]
    assert documents_of(tmp_path / "out")["train"] == expected
