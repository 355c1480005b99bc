"""The server under concurrent clients: requests a second and latency, beside the same requests one after another.

    python benchmarks/serve.py [RUN] [--clients 1 8 32] [--seconds 8] [--threads 1] [--json FILE]

Each client sends its next request when it has its answer. The mix: a quarter each of scores (4 texts of 200 bytes),
features (1 text), traces (1 text) and written text (100 bytes, streamed). The server is a process of its own, the
clients another one; p50 and p95 are of whole answers. One client alone is what the batch is measured against. Without
a run, one of 512 units is trained for two steps: speed does not depend on what it has learnt.
"""

import argparse
import http.client
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import overnight

WORDS = ("the", "of", "night", "model", "byte", "good", "bad", "long", "film", "half", "dull", "love", "story")


def asked_of(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """One request of the mix."""

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(60))[:200]

    name = draw.choice(["score", "features", "trace", "generate"])
    if name == "score":
        return name, {"texts": [text() for _ in range(4)]}
    if name == "features":
        return name, {"texts": [text()]}
    if name == "trace":
        return name, {"text": text(), "units": [1], "top": 8}
    return name, {"prompt": text()[:20], "length": 100, "seed": draw.randrange(1000)}


def one_client(host: str, number: int, end: float, found: list[tuple[str, float, int]]) -> None:
    """Ask until `end`; appends (kind, seconds, status) of every request."""
    draw = random.Random(number)
    connection = http.client.HTTPConnection(host, timeout=120)
    while time.monotonic() < end:
        name, asked = asked_of(draw)
        begun = time.monotonic()
        connection.request("POST", f"/api/{name}", json.dumps(asked), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        found.append((name, time.monotonic() - begun, answer.status))
    connection.close()


def measure(host: str, clients: int, seconds: float) -> dict[str, Any]:
    """Many clients for some seconds; those that have begun may finish."""
    found: list[tuple[str, float, int]] = []
    begun = time.monotonic()
    threads = [
        threading.Thread(target=one_client, args=(host, number, begun + seconds, found)) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    times = sorted(one for _, one, _ in found)
    cuts = statistics.quantiles(times, n=100)
    return {
        "clients": clients,
        "requests": len(found),
        "failed": sum(status != 200 for _, _, status in found),
        "requests_per_s": len(found) / took,
        "p50_ms": 1e3 * cuts[49],
        "p95_ms": 1e3 * cuts[94],
        "longest_ms": 1e3 * times[-1],
    }


def untrained(run: Path) -> Path:
    """A run of 512 units after two steps on the embedded corpus."""
    settings = ["--steps", "2", "--set", "model.hidden_size=512", "--set", "evaluations=1"]
    command = [sys.executable, "-m", "overnight", "train", "builtin", *settings, "--out", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run


def measure_all(run: Path, threads: int, clients: list[int], seconds: float) -> list[dict[str, Any]]:
    """One row for each number of clients, all on one server."""
    command = [sys.executable, "-m", "overnight", "serve", str(run), "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        host = server.stdout.readline().partition("http://")[2].partition("/")[0]
        try:
            measure(host, 2, 1.0)
            return [measure(host, count, seconds) for count in clients]
        finally:
            server.terminate()


def main() -> None:
    """Start a server, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "out" / "serve.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or untrained(Path(scratch) / "untrained-512")
        rows = measure_all(run, options.threads, options.clients, options.seconds)
    print(f"{'clients':>8} {'requests/s':>11} {'p50 ms':>8} {'p95 ms':>8} {'longest':>8} {'failed':>7}")
    for row in rows:
        print(
            f"{row['clients']:>8} {row['requests_per_s']:>11.1f} {row['p50_ms']:>8.0f} {row['p95_ms']:>8.0f}"
            f" {row['longest_ms']:>8.0f} {row['failed']:>7}"
        )
    made_with = {"machine": platform.machine(), "torch": torch.__version__, "overnight": overnight.__version__}
    report = {"rows": rows, "run": run.name, "threads": options.threads, **made_with}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
