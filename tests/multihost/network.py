"""Hosts without hardware: network namespaces with addresses of their own, on a switch, each on a link that may be slow.

Root is needed, and ``ip`` and ``tc`` (Debian's iproute2). Nothing here reaches the machine's own network.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PORT = "eth0"
"""A host's network interface."""
# Everything ends when the pipe from whoever made the network closes, be it by kill -9.
REAPER = """
cat >/dev/null
for name in "$@"; do ip netns pids "$name" 2>/dev/null | xargs -r kill -9; done
for name in "$@"; do ip netns delete "$name" 2>/dev/null; done
"""


def missing() -> str | None:
    """Why this machine cannot make hosts; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are network namespaces of Linux, which only root can make"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "ip and tc are not installed (Debian: iproute2)"
    name = f"probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=20)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)
    return None if made.returncode == 0 else f"root cannot make network namespaces here: {made.stderr.strip()}"


@dataclass(frozen=True)
class Host:
    """One namespace.

    Attributes:
        name: of the namespace.
        address: IPv4.
        switch, port: the switch's namespace, and its end of this host's cable.
    """

    name: str
    address: str
    switch: str
    port: str

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A command on this host, with what it prints in a file; it is among `processes` when this returns."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *argv],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(env or {})},
                start_new_session=True,
            )  # fmt: skip
        # ip enters the host after it has started: until then neither `kill` nor the network's end would find it
        while process.poll() is None and not self._holds(process.pid):
            time.sleep(0.002)
        return process

    def _holds(self, process: int) -> bool:
        try:
            return os.stat(f"/proc/{process}/ns/net").st_ino == os.stat(f"/run/netns/{self.name}").st_ino
        except FileNotFoundError:  # ended meanwhile
            return False

    def processes(self) -> list[int]:
        """Their ids."""
        return [int(word) for word in _run("ip", "netns", "pids", self.name).split()]

    def kill(self) -> None:
        """Every process of this host, at once."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def unplug(self) -> None:
        """Cut the cable."""
        _run("ip", "-n", self.switch, "link", "set", self.port, "down")

    def plug(self) -> None:
        """Mend it."""
        _run("ip", "-n", self.switch, "link", "set", self.port, "up")

    def throttle(self, megabits: float | None) -> None:
        """Let no more than so many million bits a second through, each way; None for what the machine gives."""
        for name, port in ((self.name, PORT), (self.switch, self.port)):
            if megabits is None:
                subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", port, "root"], capture_output=True, timeout=20)
                continue
            # at least the kernel's largest packet, which would be cut up otherwise; else what a millisecond brings
            burst = max(80_000, round(megabits * 125))
            rate = [f"{megabits}mbit", "burst", str(burst), "latency", "100ms"]
            _run("tc", "-n", name, "qdisc", "replace", "dev", port, "root", "tbf", "rate", *rate)

    def sent_bytes(self) -> int:
        """By this host since it was made, headers and all."""
        return int(_run("ip", "netns", "exec", self.name, "cat", f"/sys/class/net/{PORT}/statistics/tx_bytes"))


class Network:
    """Hosts 10.77.0.1, 10.77.0.2, … on one switch; all is gone at the end, also if this process is killed.

    Args:
        hosts: how many.
        megabits: of every host's link; None for what the machine gives.

        with Network(2, megabits=100) as network:
            first, second = network.hosts
    """

    def __init__(self, hosts: int, megabits: float | None = None) -> None:
        mark = uuid.uuid4().hex[:6]
        switch = f"on-{mark}-switch"
        self.hosts = [Host(f"on-{mark}-{i}", f"10.77.0.{i + 1}", switch, f"port{i}") for i in range(hosts)]
        names = [*(host.name for host in self.hosts), switch]
        self._reaper = subprocess.Popen(
            ["sh", "-c", REAPER, "sh", *names], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            self._build(switch)
            for host in self.hosts:
                if megabits is not None:
                    host.throttle(megabits)
        except BaseException:
            self.close()
            raise

    def _build(self, switch: str) -> None:
        _batch(None, f"netns add {switch}", *(f"netns add {host.name}" for host in self.hosts))
        for host in self.hosts:
            _quiet(host.name)
        _quiet(switch)
        cables = [f"netns {h.name} type veth peer name {h.port} netns {switch}" for h in self.hosts]
        _batch(None, *(f"link add {PORT} {cable}" for cable in cables))
        ports = [f"link set {host.port} master bridge up" for host in self.hosts]
        _batch(switch, "link add bridge type bridge", "link set bridge up", *ports)
        for host in self.hosts:
            _batch(host.name, f"address add {host.address}/24 dev {PORT}", "link set lo up", f"link set {PORT} up")

    def close(self) -> None:
        """Kill what runs on the hosts, and take them away."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait(30)

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _quiet(name: str) -> None:
    """No IPv6, whose announcements would be counted; nothing to do where the kernel has none."""
    switch_off = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done"
    subprocess.run(["ip", "netns", "exec", name, "sh", "-c", switch_off], capture_output=True, timeout=20)


def _batch(name: str | None, *commands: str) -> None:
    _run("ip", *(("-n", name) if name else ()), "-batch", "-", text="\n".join(commands))


def _run(*words: str, text: str = "") -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
