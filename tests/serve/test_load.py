"""A server under load and with rude clients: nothing is lost, every answer is right, and it stays up."""

import asyncio
import http.client
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from serve.conftest import start_server
from train.launching import WORDS

from overnight.evaluate.load import ByteModel
from overnight.serve.connections import Failures

CLIENTS, REQUESTS = 32, 6


def text_of(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 30)))


def asked_of(draw: random.Random) -> tuple[str, dict[str, Any]]:
    name = draw.choice(["score", "features", "trace", "generate"])
    if name == "score":
        return name, {"texts": [text_of(draw) for _ in range(draw.randrange(1, 5))]}
    if name == "features":
        return name, {"texts": [text_of(draw)], "pool": draw.choice(["last", "mean", "max"])}
    if name == "trace":
        return name, {"text": text_of(draw), "units": [draw.randrange(16)], "top": 2}
    held = [{"unit": draw.randrange(16), "value": 2.0}] if draw.random() < 0.5 else []
    return name, {"prompt": text_of(draw), "length": 30, "seed": draw.randrange(1000), "fix_units": held}


def written(body: str) -> str:
    parts = [part.split("\n") for part in body.split("\n\n")[:-1]]
    assert parts[-1][0] == "event: end", body
    data = [json.loads(line.removeprefix("data: ")) for name, line in parts if name == "event: text"]
    return "".join(one["text"] for one in data)


def check(model: ByteModel, name: str, asked: dict[str, Any], answer: httpx2.Response) -> None:
    assert answer.status_code == 200, answer.text
    if name == "score":
        found = [one["bits"] for one in answer.json()["scores"]]
        np.testing.assert_allclose(found, model.score(asked["texts"]), rtol=1e-5)
    elif name == "features":
        states = model.states(asked["texts"][0])
        expected = {"last": states[-1], "mean": states.mean(0), "max": states.max(0)}[asked["pool"]]
        np.testing.assert_allclose(answer.json()["features"][0], expected, rtol=1e-3, atol=1e-5)
    elif name == "trace":
        values = model.trace(asked["text"], asked["units"][0]).values
        np.testing.assert_allclose(answer.json()["units"][0]["values"], values, rtol=1e-3, atol=1e-5)
    else:
        held = {one["unit"]: one["value"] for one in asked["fix_units"]}
        own = asked | {"fix_units": held}
        assert written(answer.text) == "".join(model.generate(**own))


def test_thirty_two_clients_get_what_one_alone_would(address: str, model: ByteModel) -> None:
    start = threading.Barrier(CLIENTS)

    def client(number: int) -> list[tuple[str, dict[str, Any], httpx2.Response]]:
        draw = random.Random(number)
        found = []
        with httpx2.Client(base_url=address, timeout=120) as session:
            start.wait()
            for _ in range(REQUESTS):
                name, asked = asked_of(draw)
                found.append((name, asked, session.post(f"/api/{name}", json=asked)))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [one for found in pool.map(client, range(CLIENTS)) for one in found]
    assert len(answers) == CLIENTS * REQUESTS
    for answer in answers:
        check(model, *answer)
    assert httpx2.get(f"{address}/healthz").json() == {"status": "ok", "requests": 0, "lanes": 0}


def post(address: str, name: str, asked: dict[str, Any]) -> tuple[http.client.HTTPConnection, Any]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", f"/api/{name}", json.dumps(asked), {"Content-Type": "application/json"})
    return connection, connection


def idle(address: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while (busy := httpx2.get(f"{address}/healthz", timeout=30).json())["requests"]:
        assert time.monotonic() < end, busy
        time.sleep(0.05)


def test_a_client_that_hangs_up_in_the_middle_frees_its_place(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--requests", "2")
    address = next(server)
    for _ in range(5):
        opened = []
        for _ in range(2):
            connection, _ = post(address, "generate", {"length": 4000})
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read1(100)
            opened.append((connection, answer))
        for connection, answer in opened:
            answer.close()
            connection.close()
        idle(address)
    assert len(written(httpx2.post(f"{address}/api/generate", json={"length": 50, "seed": 1}).text)) >= 40
    for _ in server:
        pass


def test_a_client_that_does_not_wait_for_its_answer_frees_its_place(address: str) -> None:
    for _ in range(3):
        connection, _ = post(address, "score", {"texts": ["the night " * 1900] * 10})
        connection.close()
    idle(address)


def test_garbage_and_silence_on_the_socket_hurt_nobody(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    for line in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/score HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as rude:
            rude.sendall(line)
    assert httpx2.post(f"{address}/api/score", json={"texts": ["night"]}).status_code == 200
    for one in silent:
        one.close()


def closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_headers_that_do_not_end_are_not_waited_for(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--seconds", "2")
    address = next(server)
    host, port = address.removeprefix("http://").split(":")
    begun = time.monotonic()
    halves = [socket.create_connection((host, int(port))) for _ in range(60)]
    for one in halves:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHo")
    assert httpx2.get(f"{address}/healthz", timeout=30).status_code == 200
    assert not closed(halves[0], 0.1)
    assert all(closed(one, 15) for one in halves)
    assert 1.5 < time.monotonic() - begun < 20
    with socket.create_connection((host, int(port))) as again:
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += again.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        again.sendall(b"GET ")
        assert not closed(again, 0.5)
        assert closed(again, 15), "nor for that of a second request"
    for _ in server:
        pass


def test_silent_connections_keep_nobody_out(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--connections", "20")
    address = next(server)
    host, port = address.removeprefix("http://").split(":")
    connection, _ = post(address, "generate", {"length": 4000})
    stream = connection.getresponse()
    assert stream.read1(10)
    silent = []
    for _ in range(3):
        silent += [socket.create_connection((host, int(port))) for _ in range(20)]
        assert httpx2.get(f"{address}/healthz", timeout=30).status_code == 200
    assert sum(closed(one, 0.02) for one in silent) >= 40
    stream.close()
    connection.close()
    for one in silent:
        one.close()
    for _ in server:
        pass
    assert "Traceback" not in "".join(log.read_text() for log in tmp_path.rglob("*") if log.is_file())


def test_nobody_let_in_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    failures, loop = Failures(), asyncio.new_event_loop()
    for _ in range(100):
        failures(loop, {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many")})
    failures(loop, {"message": "something else"})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be taken: [Errno 24] Too many",
        "something else",
    ]


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--host", "127.0.0.1"], ["--host", "localhost"]])
def test_the_address_that_is_told_is_answered(run: Path, tmp_path: Path, words: list[str]) -> None:
    server = start_server(run, tmp_path, *words)
    address = next(server)
    assert httpx2.get(f"{address}/", timeout=30).status_code == 200
    for _ in server:
        pass


def test_a_name_that_is_given_is_told(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--host", "0.0.0.0", "--name", "playground.example")
    address = next(server)
    assert address.startswith("http://playground.example:")
    at = address.replace("playground.example", "127.0.0.1")
    assert httpx2.get(f"{at}/", headers={"Host": "playground.example"}, timeout=30).status_code == 200
    for _ in server:
        pass


def test_more_requests_than_places_are_told_to_come_again(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--requests", "2")
    address = next(server)
    opened = []
    for _ in range(2):
        connection, _ = post(address, "generate", {"length": 4000, "temperature": 1.5})
        answer = connection.getresponse()
        assert answer.read1(10)
        opened.append((connection, answer))
    full = httpx2.post(f"{address}/api/score", json={"texts": ["night"]})
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert full.json()["error"]["problem"] == "2 requests are in work or waiting already."
    for connection, answer in opened:
        answer.close()
        connection.close()
    idle(address)
    assert httpx2.post(f"{address}/api/score", json={"texts": ["night"]}).status_code == 200
    for _ in server:
        pass


def test_a_body_that_does_not_come_is_not_waited_for(run: Path, tmp_path: Path) -> None:
    server = start_server(run, tmp_path, "--seconds", "1")
    host, port = next(server).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        head = (
            f"POST /api/score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        slow.sendall(head.encode() + b'{"te')
        answer = b""
        while b"}}" not in answer and (more := slow.recv(10_000)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The request did not arrive in 1 seconds." in answer
    for _ in server:
        pass


@pytest.mark.parametrize("words", [["--port", "99999"], ["--host", "no.such.host.invalid"], ["--seconds", "0"]])
def test_settings_that_cannot_work_are_named(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from overnight.cli import main

    assert main(["serve", str(run), "--device", "cpu", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("overnight: ")
    assert words[1] in said
