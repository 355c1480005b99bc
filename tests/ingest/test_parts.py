"""Parts prepared apart and joined are the corpus prepared at once."""

import json
import shutil
from pathlib import Path

import pytest
from ingest.checks import documents_of, write_jsonl

from overnight.data.ingest import PrepareSettings, join_parts, parse_part, prepare
from overnight.errors import UserError

SETTINGS = PrepareSettings(split=(6, 2, 2), shard_mb=0.02)


def sources(folder: Path, files: int, each: int) -> Path:
    folder.mkdir()
    for number in range(files):
        write_jsonl(folder / f"{number:02d}.jsonl", [f"{number} {i} " + "x" * 900 for i in range(each)])
    return folder


def parts_of(folder: Path, count: int, root: Path, settings: PrepareSettings = SETTINGS) -> list[Path]:
    outs = [root / f"part{number}" for number in range(1, count + 1)]
    for number, out in enumerate(outs, 1):
        prepare([folder], out, settings, part=(number, count))
    return outs


@pytest.mark.parametrize(("files", "each", "count"), [(1, 400, 3), (12, 60, 4), (2, 300, 5), (1, 2, 4)])
def test_join_equals_one_run(tmp_path: Path, files: int, each: int, count: int) -> None:
    folder = sources(tmp_path / "in", files, each)
    whole = prepare([folder], tmp_path / "whole", SETTINGS)
    outs = parts_of(folder, count, tmp_path)
    shares = []
    for number, out in enumerate(outs, 1):
        documents_of(out)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["part"] == [number, count]
        shares.append(manifest["counts"]["documents"])
    if each > 2:
        assert max(shares) - min(shares) <= 120, "shares are even to a piece or two"
    joined = join_parts(outs[::-1], tmp_path / "joined")
    assert documents_of(tmp_path / "joined") == documents_of(tmp_path / "whole")
    for key in ("settings", "sources", "counts", "errors", "part"):
        assert joined[key] == whole[key], key
    # The parts are untouched, and one folder that holds them will do.
    root = tmp_path / "root"
    root.mkdir()
    for out in outs:
        documents_of(out)
        out.rename(root / out.name)
    assert join_parts([root], tmp_path / "again") == joined
    shutil.rmtree(root)
    assert documents_of(tmp_path / "again") == documents_of(tmp_path / "whole")


def test_held_out_files_and_duplicates_within_parts(tmp_path: Path) -> None:
    folder = sources(tmp_path / "in", 3, 100)
    write_jsonl(tmp_path / "v.jsonl", [f"held {i}" + "x" * 900 for i in range(100)])
    said: list[str] = []
    settings = PrepareSettings(dedup=True)
    for number in (1, 2, 3):
        prepare([folder], tmp_path / f"{number}", settings, valid=[tmp_path / "v.jsonl"], part=(number, 3))
    joined = join_parts([tmp_path / str(n) for n in (3, 1, 2)], tmp_path / "out", notify=said.append)
    assert joined["splits"]["valid"]["documents"] == 100
    assert said == ["Duplicates were dropped within each part; those that stand in two parts are still there."]


def test_join_checks(tmp_path: Path) -> None:
    folder = sources(tmp_path / "in", 2, 100)
    one, two, three = parts_of(folder, 3, tmp_path)
    out = tmp_path / "out"

    def fails(paths: list[Path], message: str) -> None:
        with pytest.raises(UserError, match=message):
            join_parts(paths, out)
        assert not out.exists()

    fails([one, three], r"Parts are missing: 2/3\.")
    fails([one, two, two, three], r"part2 and .*part2 are both part 2/3")
    fails([one, two, tmp_path / "in"], r"in is not a finished corpus")
    fails([tmp_path / "in"], r"holds no finished parts")
    prepare([folder], tmp_path / "half", SETTINGS, part=(1, 2))
    fails([one, tmp_path / "half"], r"half is part 1/2, .*part1 is part 1/3")
    prepare([folder], tmp_path / "whole", SETTINGS)
    fails([tmp_path / "whole"], "is a whole corpus")
    prepare([folder], tmp_path / "other", PrepareSettings(), part=(3, 3))
    fails([one, two, tmp_path / "other"], r"not made alike \(split, shard_mb\)")
    write_jsonl(folder / "02.jsonl", ["more"])
    prepare([folder], tmp_path / "more", SETTINGS, part=(3, 3))
    fails([one, two, tmp_path / "more"], r"not made alike \(sources\)")

    shard = next((two / "train").glob("*.bin"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"?")
    fails([one, two, three], r"\.bin was altered after its manifest")
    shard.unlink()
    fails([one, two, three], r"\.bin is missing")
    shard.write_bytes(good)
    join_parts([one, two, three], out)
    with pytest.raises(UserError, match="already holds a corpus"):
        join_parts([one, two, three], out)
    with pytest.raises(UserError, match="is itself a part"):
        join_parts([one, two, three], one, force=True)
    join_parts([one, two, three], out, force=True)
    assert len(documents_of(out)["train"]) > 0
    for path in (one, two, three):
        documents_of(path)


def test_join_copies_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    folder = sources(tmp_path / "in", 1, 50)
    parts = parts_of(folder, 2, tmp_path)

    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    join_parts(parts, tmp_path / "out")
    shutil.rmtree(parts[0])
    assert sum(map(len, documents_of(tmp_path / "out").values())) == 50


def test_part_arguments(tmp_path: Path) -> None:
    assert parse_part("3/16") == (3, 16)
    for wrong in ("0/4", "5/4", "x", "1", "1/0", "-1/2"):
        with pytest.raises(UserError, match="Give the part and the number of parts"):
            parse_part(wrong)
    with pytest.raises(UserError, match="cannot be shared out"):
        prepare(["-"], tmp_path / "out", format="txt", part=(1, 2))
