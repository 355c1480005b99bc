"""Cells and links: what they are in JSON, what cannot be, and what becomes of one on other workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from overnight.errors import UserError
from overnight.scaling.links import LINKS, Link, link
from overnight.scaling.step_cells import StepCell, read_cells, write_cells
from overnight.scaling.step_plan import plan, plan_table

CELL = StepCell("sampled", 4, 1e9, 18e6, 200.0, 319.0, cores=2, messages=4, model="lstm")


def test_cells_come_back_from_a_file(tmp_path: Path) -> None:
    cells = [CELL, StepCell("async", 2, None, 1e6, 20.0, received_bytes_per_step=2e6, remote_workers=2)]
    write_cells(cells, tmp_path / "cells.json")
    assert read_cells(tmp_path / "cells.json") == cells
    record = CELL.to_json() | {"perplexity": 120.5, "seed": 1}
    (tmp_path / "more.json").write_text(json.dumps({"date": "today", "cells": [record]}))
    assert read_cells(tmp_path / "more.json") == [CELL]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2", "cannot be read as JSON"),
        ('{"rows": []}', "has no list of cells"),
        ("[3]", "has no list of cells"),
        ('[{"mode": "ddp"}]', "cell 1: A cell lacks workers, bytes_per_step, compute_ms"),
        ('[{"mode": "ddp", "workers": 0, "bytes_per_step": 1, "compute_ms": 1}]', "cell 1: workers=0 of a cell"),
    ],
)
def test_files_that_are_none(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said) as raised:
        read_cells(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_cells(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 0}, {"bits_per_second": 0.0}, {"bytes_per_step": -1.0}, {"compute_ms": float("nan")},
        {"step_ms": 0.0}, {"cores": 0}, {"messages": -1}, {"latency_ms": None}, {"compute_ms": "fast"},
        {"bits_per_second": float("inf")}, {"workers": True},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(change))}=.* of a cell cannot be"):
        StepCell(**(CELL.to_json() | change))


def test_links() -> None:
    assert link("ndr").bits_per_second == 2 * link("hdr").bits_per_second == 4 * link("100G").bits_per_second
    assert link("nvlink4").bits_per_second == 8 * 450e9
    assert link("pcie4").bits_per_second / 8e9 == pytest.approx(31.5, abs=0.01)
    assert all(each.source for each in LINKS.values())
    with pytest.raises(UserError, match="No link is named 'token ring'") as raised:
        link("token ring")
    assert "100M" in str(raised.value)
    for rate, latency in ((0.0, 1.0), (1e9, -1.0), (float("nan"), 1.0)):
        with pytest.raises(UserError, match="The link mine cannot have"):
            Link("mine", rate, latency, "")


def test_the_ring_on_other_workers() -> None:
    moved = CELL.at(128, LINKS["10G"])
    assert moved.bytes_per_step == pytest.approx(18e6 * (127 / 128) / (3 / 4))
    assert (moved.bits_per_second, moved.cores, moved.step_ms, moved.latency_ms) == (1e10, None, None, 0.03)
    assert CELL.at(1, LINKS["10G"]).bytes_per_step == 0.0
    served = StepCell("async", 4, 1e9, 18e6, 200.0).at(128, LINKS["10G"])
    assert served.bytes_per_step == 18e6
    assert served.server_ms == pytest.approx(127 * 14.4)
    with pytest.raises(UserError, match="two or more"):
        StepCell("ddp", 1, None, 0.0, 200.0).at(8, None)


def test_hosts_of_several_workers() -> None:
    hosts = {"per_host": 8, "inside": LINKS["nvlink3"]}
    assert CELL.at(128, LINKS["ndr"], **hosts).bits_per_second == 400e9
    assert CELL.at(128, LINKS["ndr"], **hosts, links_per_host=8).bits_per_second == 2400e9
    assert CELL.at(8, LINKS["ndr"], **hosts).bits_per_second == 2400e9
    assert CELL.at(8, LINKS["ndr"]).bits_per_second == 400e9
    assert CELL.at(8, None).bits_per_second is None


def test_a_plan_of_128() -> None:
    ddp = StepCell("ddp", 4, None, 102e6, 180.0, model="lstm")
    local = StepCell("local", 4, None, 102e6 / 50, 180.0, messages=0.02, model="lstm")
    rows = plan([ddp, local], 128, [LINKS["1G"], LINKS["ndr"]])
    assert [row.cell.mode for row in rows] == ["ddp", "local"] * 2
    assert [row.link for row in rows] == [LINKS["1G"]] * 2 + [LINKS["ndr"]] * 2
    by_hand = 180.0 + 8 * 102e6 * (127 / 128) / 0.75 / 1e6 * 1538 / 1448 + 254 * 0.05
    assert rows[0].prediction.step_ms == pytest.approx(by_hand)
    assert rows[0].speedup == pytest.approx(128 * 180.0 / by_hand)
    assert rows[1].speedup > 5 * rows[0].speedup
    for row in rows:
        assert 0 < row.prediction.low_ms <= row.prediction.step_ms <= row.prediction.high_ms
    lines = plan_table(rows).splitlines()
    assert len(lines) == 5
    assert len(set(map(len, lines))) == 1
    with pytest.raises(UserError, match="A plan needs a way"):
        plan([], 128, [LINKS["1G"]])
