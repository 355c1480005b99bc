"""The machine as the operating system tells it: cores, memory, disk, instruction sets. Standard library only."""

import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What the kernels that torch calls make use of; the names are Linux's, which torch and Arm's manuals share.
RELEVANT_INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
    *("asimd", "asimdhp", "bf16", "sve", "sve2", "svebf16", "sme"),
)
_NO_LIMIT_BYTES = 1 << 60  # version 1 writes a number near 2⁶³ for "no limit"
_APPLE = {"AdvSIMD": "asimd", "FEAT_FP16": "asimdhp", "FEAT_BF16": "bf16", "FEAT_SME": "sme"}


@dataclass(frozen=True)
class Machine:
    """What there is to work with.

    Args:
        system: operating system and architecture.
        python: version of the interpreter.
        cpu: the processor's name, or its architecture where the system does not tell.
        cores: that this process may use at once: the least of its affinity and its control groups' quota, rounded up.
        cores_installed: that the machine shows.
        cores_why: what keeps cores below cores_installed, or empty.
        memory_bytes: that this process may use: installed, or its control groups' limit.
        memory_available_bytes: free or reclaimable now; None where the system does not tell.
        instructions: the relevant instruction sets present, in the order of RELEVANT_INSTRUCTIONS.
        disk_path: the folder asked about.
        disk_free_bytes: free for this user on that folder's file system.
    """

    system: str
    python: str
    cpu: str
    cores: int
    cores_installed: int
    cores_why: str
    memory_bytes: int | None
    memory_available_bytes: int | None
    instructions: tuple[str, ...]
    disk_path: str
    disk_free_bytes: int


def examine_machine(folder: Path) -> Machine:
    """Look at this machine; ``folder`` is where runs would be written."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    cores, installed, why = usable_cores(control_groups("cpu"))
    memory, available = usable_memory(control_groups("memory"))
    return Machine(
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        python=platform.python_version(),
        cpu=_cpu_name(cpuinfo),
        cores=cores,
        cores_installed=installed,
        cores_why=why,
        memory_bytes=memory,
        memory_available_bytes=available,
        instructions=instructions(cpuinfo) or _apple_instructions(),
        disk_path=str(folder.resolve()),
        disk_free_bytes=shutil.disk_usage(folder).free,
    )


def control_groups(
    controller: str, root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> tuple[Path, ...]:
    """The folders of this process's control groups for ``cpu`` or ``memory``, in versions 2 and 1, innermost first.

    Every one of them may set a limit. Inside a container the inner ones may not be visible.
    """
    folders: list[Path] = []
    for names, inner in re.findall(r"^\d+:([^:\n]*):/(.*)$", _read(process), re.MULTILINE):
        if not names or controller in names.split(","):
            top = root / controller if names else root
            folder = top / inner
            folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]
    return tuple(folders)


def usable_cores(groups: Iterable[Path]) -> tuple[int, int, str]:
    """(cores this process may use, cores installed, what keeps the first below the second)."""
    installed = os.cpu_count() or 1
    limits = [(installed, "")]
    if hasattr(os, "sched_getaffinity"):
        limits.append((len(os.sched_getaffinity(0)), "CPU affinity"))
    for quota in filter(None, map(core_quota, groups)):
        limits.append((max(1, math.ceil(quota)), f"a control group's quota of {quota:g} cores"))
    cores, why = min(limits, key=lambda limit: limit[0])
    return cores, installed, why


def core_quota(group: Path) -> float | None:
    """Cores' worth of time that a control group (version 2 or 1) allows, or None where it sets no limit."""
    words = _read(group / "cpu.max").split()
    if not words:
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def usable_memory(groups: Iterable[Path], meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """(bytes this process may use, bytes available now), None where the system does not tell."""
    fields = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", _read(meminfo), re.MULTILINE)}
    total, available = fields.get("MemTotal", _installed_memory()), fields.get("MemAvailable")
    for limit, used in filter(None, map(_memory_limit, groups)):
        if total is None or limit < total:
            total = limit
        # The group's use includes page cache that it could drop, so this is the least that is available.
        available = min(total if available is None else available, max(0, limit - used))
    return total, available


def _memory_limit(group: Path) -> tuple[int, int] | None:
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _read(group / limit_name).strip(), _read(group / used_name).strip()
        if limit.isdigit() and used.isdigit() and int(limit) < _NO_LIMIT_BYTES:
            return int(limit), int(used)
    return None


def instructions(cpuinfo: str) -> tuple[str, ...]:
    """The relevant instruction sets in Linux's /proc/cpuinfo.

    >>> instructions("flags\\t\\t: fpu avx2 amx_bf16 sse avx512f")
    ('avx2', 'avx512f', 'amx_bf16')
    """
    return _relevant(re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)[:1])


def _relevant(lines: Iterable[str]) -> tuple[str, ...]:
    words = {word for line in lines for word in line.split()}
    return tuple(name for name in RELEVANT_INSTRUCTIONS if name in words)


def _apple_instructions() -> tuple[str, ...]:
    on = re.findall(r"^hw\.optional\.(?:arm\.)?(\w+): 1$", _sysctl("-a", "hw.optional"), re.MULTILINE)
    return _relevant([_APPLE.get(name, name.replace("avx2_0", "avx2")) for name in on])


def _cpu_name(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return (
        found[1] if found else _sysctl("-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    )


def _installed_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _sysctl(*arguments: str) -> str:
    if platform.system() != "Darwin":
        return ""
    result = subprocess.run(["sysctl", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
