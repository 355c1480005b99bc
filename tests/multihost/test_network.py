"""The hosts themselves: they reach each other and nobody else, links are as slow as asked, and nothing is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from multihost.launches import command
from multihost.network import Host, Network

SERVER = """
import socket, time
with socket.create_server(("10.77.0.1", 5000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    began, count = time.monotonic(), 0
    while part := connection.recv(1 << 20):
        count += len(part)
    print(count, time.monotonic() - began)
"""
CLIENT = """
import socket, sys
with socket.create_connection(("10.77.0.1", 5000)) as connection:
    connection.sendall(bytes(int(sys.argv[1])))
"""


def names() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def transfer(network: Network, size: int, log: Path) -> float:
    """Seconds that so many bytes take from the second host to the first."""
    first, second = network.hosts
    server = first.start([sys.executable, "-c", SERVER], log)
    while "ready" not in log.read_text():
        time.sleep(0.01)
    code, said = command(second, [sys.executable, "-c", CLIENT, str(size)], log.with_suffix(".client"))
    assert code == 0, said
    server.wait(30)
    count, seconds = log.read_text().split()[1:]
    assert int(count) == size
    return float(seconds)


def test_a_slow_link_is_slow_and_its_bytes_are_counted(network: Network, tmp_path: Path) -> None:
    size, second = 5_000_000, network.hosts[1]
    for host in network.hosts:
        host.throttle(40)
    before = second.sent_bytes()
    assert transfer(network, size, tmp_path / "slow") > 0.9 * size * 8 / 40e6
    sent = second.sent_bytes() - before
    assert size < sent < 1.06 * size
    for host in network.hosts:
        host.throttle(None)
    assert transfer(network, size, tmp_path / "free") < size * 8 / 40e6


def test_no_way_out(network: Network, tmp_path: Path) -> None:
    program = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    code, said = command(network.hosts[0], [sys.executable, "-c", program], tmp_path / "log")
    assert code != 0
    assert "Network is unreachable" in said


def test_an_unplugged_host_is_out_of_reach_until_it_is_plugged_in(network: Network, tmp_path: Path) -> None:
    second = network.hosts[1]
    program = "import socket, sys; socket.create_connection(('10.77.0.1', 9), 1)"
    second.unplug()
    _, cut = command(second, [sys.executable, "-c", program], tmp_path / "cut")
    assert "Connection refused" not in cut
    second.plug()
    _, mended = command(second, [sys.executable, "-c", program], tmp_path / "mended")
    assert "Connection refused" in mended


def test_a_killed_host_has_no_processes(network: Network, tmp_path: Path) -> None:
    host = network.hosts[0]
    process = host.start(["sh", "-c", "sleep 100 & sleep 100"], tmp_path / "log")
    while len(host.processes()) < 2:
        time.sleep(0.01)
    host.kill()
    assert process.wait(10) == -9
    assert host.processes() == []


def test_nothing_is_left_of_hosts_whose_maker_was_killed(hosts_can_be_made: None, tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from multihost.network import Network

network = Network(2)
network.hosts[0].start(["sleep", "100"], pathlib.Path(sys.argv[1]))
print(*(host.name for host in network.hosts), network.hosts[0].processes()[0])
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
    maker = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert maker.returncode == -9, maker.stderr
    *hosts, process = maker.stdout.split()
    assert len(hosts) == 2
    end = time.monotonic() + 30
    while names() & set(hosts) or Path(f"/proc/{process}").exists():
        assert time.monotonic() < end, (names(), process)
        time.sleep(0.05)


def test_hosts_that_cannot_be_built_leave_nothing(hosts_can_be_made: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()

    def fail(host: Host, megabits: float | None) -> None:
        raise OSError("no such queue")

    monkeypatch.setattr(Host, "throttle", fail)
    with pytest.raises(OSError, match="no such queue"):
        Network(2, megabits=100)
    assert names() <= before
