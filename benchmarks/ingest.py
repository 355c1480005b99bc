"""Speed and memory of `overnight prepare` on generated JSON lines, against the plainest loop in Python.

    python benchmarks/ingest.py [--gb 2] [--workers 1 2] [--repeats 2] [--folder DIR] [--out FILE.json]

A record is {"id", "stars", "text", "time"} and 1.3 kB long on average; the text is words of a made-up vocabulary with
Zipf's frequencies, and one record in eight has characters outside ASCII. With one worker the command is bound to one
core. The peer reads lines, takes the text with the standard library's json and writes it: no splits, no offsets, no
digests. Seconds are those of the clock, of the fastest repeat; on a machine that has other work too, go by the
processor time. Memory is resident memory summed over all processes of the command, sampled every 20 ms, of the largest
repeat; pages that processes share count for each.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil

COMMAND = "import sys; from overnight.cli.prepare import main; sys.exit(main(sys.argv[1:]))"
PEER = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as lines, open(sys.argv[2], "w", encoding="utf-8") as out:
    for line in lines:
        out.write(json.loads(line)["text"] + "\\n")
"""


def generate(path: Path, size: float, seed: int = 0) -> int:
    """Write about ``size`` bytes of JSON lines; returns the number of records."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randrange(2, 10))) for _ in range(20_000)]
    accented = [word.replace("e", "é").replace("a", "ä") for word in words]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    block = []
    for number in range(20_000):
        text = " ".join(rng.choices(accented if number % 8 == 0 else words, weights, k=rng.randrange(20, 355)))
        block.append((text, number % 5 + 1))
    written = records = 0
    with open(path, "w", encoding="utf-8") as out:
        while written < size:
            for text, stars in block:
                # The number at the front makes every document another one.
                record = {"id": records, "stars": stars, "text": f"{records} {text}", "time": "2018-08-03T12:00:00Z"}
                written += out.write(json.dumps(record, ensure_ascii=False) + "\n")
                records += 1
    return records


def measure(arguments: list[str], one_core: bool) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak megabytes of a command and its children."""
    cores = os.sched_getaffinity(0)
    if one_core:
        os.sched_setaffinity(0, {min(cores)})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(0, cores)
    peak = 0
    while process.poll() is None:
        resident = 0
        for member in [process, *_children(process)]:
            try:
                resident += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, resident)
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, peak / 1e6


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0, help="size of the input")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the input and the corpora are made; deleted at the end")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="overnight-ingest-", dir=options.folder))
    try:
        source = scratch / "input.jsonl"
        records = generate(source, options.gb * 1e9)
        size = source.stat().st_size
        runs = [
            ("plain loop", [sys.executable, "-c", PEER, str(source), str(scratch / "peer")], True),
            *(
                (
                    f"prepare, workers {workers}{' --dedup' if extra else ''}",
                    [
                        *(
                            sys.executable,
                            "-c",
                            COMMAND,
                            str(source),
                            "--out",
                            str(scratch / "out"),
                        ),
                        *("--workers", str(workers), *extra),
                    ],
                    workers == 1,
                )
                for workers in options.workers
                for extra in ((), ("--dedup",))
            ),
        ]
        rows = []
        print(f"{size / 1e9:.2f} GB, {records:,} records of {size / records:.0f} bytes")
        print(f"{'':28} {'seconds':>8} {'MB/s':>7} {'CPU s':>7} {'peak MB':>8}")
        for name, arguments, one_core in runs:
            times = []
            for _ in range(options.repeats):
                shutil.rmtree(scratch / "out", ignore_errors=True)
                times.append(measure(arguments, one_core))
            seconds, busy = min(times)[:2]
            peak = max(time[2] for time in times)
            rate = size / 1e6 / seconds
            rows.append({"name": name, "seconds": seconds, "cpu_s": busy, "mb_per_s": rate, "peak_rss_mb": peak})
            print(f"{name:28} {seconds:8.1f} {rate:7.1f} {busy:7.1f} {peak:8.0f}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = {
        "benchmark": "ingest",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "bytes": size,
        "records": records,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
