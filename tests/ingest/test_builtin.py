"""The corpus that every machine has."""

import json
import os
import sysconfig
import threading
from pathlib import Path

import pytest
from ingest.checks import documents_of

from overnight.data import builtin
from overnight.data.builtin import builtin_corpus, builtin_sources
from overnight.errors import UserError


def test_sources_are_the_standard_library_in_a_fixed_order() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in builtin_sources()]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py", "asyncio/base_events.py"} <= set(names)
    assert not [n for n in names if {"site-packages", "test", "tests", "__pycache__", "idlelib"} & set(n.split("/"))]


def test_corpus(tmp_path: Path) -> None:
    folder = builtin_corpus(tmp_path / "cache")
    found = documents_of(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    total = manifest["counts"]["bytes"]
    assert 5_000_000 < total < 12_000_000
    assert manifest["settings"]["split"] == [90, 5, 5]
    for split in ("valid", "test"):
        assert 50_000 < manifest["splits"][split]["bytes"] < 0.2 * total
    decoder = Path(sysconfig.get_path("stdlib"), "json", "decoder.py").read_bytes() + b"\n"
    assert sum(documents.count(decoder) for documents in found.values()) == 1
    stamp = os.stat(folder / "manifest.json").st_mtime_ns
    assert builtin_corpus(tmp_path / "cache") == folder
    assert os.stat(folder / "manifest.json").st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    for number in range(30):
        (tmp_path / "lib" / f"m{number}.py").write_text(f"x = {number}\n" * 100)
    sources = builtin_sources(tmp_path / "lib")
    monkeypatch.setattr(builtin, "builtin_sources", lambda: sources)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(builtin_corpus(tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert sum(map(len, documents_of(found[0]).values())) == 30
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_library_without_sources(tmp_path: Path) -> None:
    for root in (tmp_path / "python311.zip", tmp_path):
        with pytest.raises(UserError, match="no source files of its standard library"):
            builtin_sources(root)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "x.py").write_text("x")
    with pytest.raises(UserError, match="Give text of your own"):
        builtin_sources(tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        builtin_corpus(tmp_path / "file" / "cache")
