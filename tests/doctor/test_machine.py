"""Cores, memory and instruction sets, read from files made to look like those of other machines."""

import os
from pathlib import Path

import pytest

from overnight.doctor.machine import (
    control_groups,
    core_quota,
    examine_machine,
    instructions,
    usable_cores,
    usable_memory,
)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu__max": "150000 100000\n"}, 1.5),
        ({"cpu__max": "max 100000\n"}, None),
        ({"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}, 4.0),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_core_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert core_quota(write(tmp_path / "group", **files)) == quota


def test_the_smallest_quota_of_nested_groups_counts_and_rounds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    inner = write(tmp_path / "job" / "step", cpu__max="max 100000")
    outer = write(tmp_path / "job", cpu__max="250000 100000")
    assert usable_cores([inner, outer]) == (3, 64, "a control group's quota of 2.5 cores")
    assert usable_cores([inner]) == (16, 64, "CPU affinity")


def test_memory_is_the_least_of_installed_and_the_groups_limits(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000000 kB\nMemFree: 1 kB\nMemAvailable:   6000000 kB\n")
    group = write(tmp_path / "group", memory__max="2000000000\n", memory__current="500000000\n")
    unlimited = write(tmp_path / "unlimited", memory__max="max\n", memory__current="7\n")
    version_1 = write(tmp_path / "v1", memory__limit_in_bytes="9223372036854771712\n", memory__usage_in_bytes="7\n")
    assert usable_memory([unlimited, version_1], meminfo) == (8_192_000_000, 6_144_000_000)
    assert usable_memory([group, unlimited], meminfo) == (2_000_000_000, 1_500_000_000)


def test_control_groups_of_both_versions_innermost_first(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("4:memory:/job/step\n3:cpu,cpuacct:/\n1:name=systemd:/x\n0::/job\n")
    root = tmp_path / "fs"
    assert control_groups("memory", root, process) == (
        *(root / "memory/job/step", root / "memory/job", root / "memory"),
        *(root / "job", root),
    )
    assert control_groups("cpu", root, process) == (root / "cpu", root / "job", root)
    assert control_groups("cpu", root, tmp_path / "missing") == ()


def test_instructions_keep_to_whole_words_and_the_first_processor() -> None:
    arm = "processor: 0\nFeatures\t: fp asimd asimdhp sve svebf16 bf16 i8mm\nFeatures: sme\n"
    assert instructions(arm) == ("asimd", "asimdhp", "bf16", "sve", "svebf16")
    assert instructions("flags : avx512f_lookalike\n") == ()
    assert instructions("") == ()


def test_this_machine(tmp_path: Path) -> None:
    machine = examine_machine(tmp_path)
    assert 1 <= machine.cores <= machine.cores_installed
    assert bool(machine.cores_why) == (machine.cores < machine.cores_installed)
    assert machine.disk_path == str(tmp_path.resolve())
    assert machine.disk_free_bytes > 0
    assert machine.memory_bytes is None or machine.memory_bytes > 100_000_000
