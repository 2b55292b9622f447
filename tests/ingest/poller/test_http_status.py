"""Asking a device over HTTP: a simulated Pro 3EM with digest authentication, on a real socket."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.simulator.load import Load
from infra.simulator.pro3em_device import Pro3em
from infra.simulator.shapes import own_shapes
from ingest.decoders.topic_table import address_of, decode
from ingest.poller import http_status
from ingest.poller.http_status import CannotAsk, StatusClient, password_in, require_host
from schemas.units import SECOND_US

NOW_US = 1_763_706_000 * SECOND_US
METER = "shellypro3em-ec6260890b50"
ADDRESS = f"shelly:{METER}"
PASSWORD = 'long: and, "odd"'


@pytest.fixture
def meter() -> Iterator[Callable[[str | None], tuple[Pro3em, str]]]:
    """Makes a meter that serves HTTP; gives it and its `host:port`."""
    made: list[Pro3em] = []

    def make(password: str | None) -> tuple[Pro3em, str]:
        load = Load(own_shapes().homes[0], 1000, 0, 0.0)
        one = Pro3em(METER, load, lambda: NOW_US, password)
        made.append(one)
        return one, one.serve()

    yield make
    for one in made:
        one.close()


def fetched(host: str, password: str | None, times: int = 1, address: str = ADDRESS) -> list[bytes]:
    async def fetch() -> list[bytes]:
        client = StatusClient(address, host, password)
        try:
            return [await client.fetch() for _ in range(times)]
        finally:
            await client.close()

    return asyncio.run(fetch())


def test_the_bytes_are_the_device_s_and_decode_under_their_topic(meter):
    _, host = meter(None)
    (body,) = fetched(host, None)
    topic = f"poll/shelly/{METER}/status"
    assert address_of(topic, body) == ADDRESS
    message = decode(topic, body, NOW_US + 5 * SECOND_US)
    assert {reading.channel for reading in message.readings} == {
        "total", "l1", "l2", "l3", "temperature:0"
    }  # fmt: skip
    assert {reading.measured_us for reading in message.readings} == {NOW_US}


def test_one_challenge_is_enough_for_many_requests(meter):
    one, host = meter(PASSWORD)
    assert len(fetched(host, PASSWORD, times=20)) == 20
    assert (one.requests, one.challenges) == (20, 1)


def test_a_nonce_that_is_used_up_is_renewed(meter):
    one, host = meter(PASSWORD)
    one.nonce_uses = 5  # a device of firmware 2.0 takes one 30,000 times
    assert len(fetched(host, PASSWORD, times=12)) == 12
    assert (one.requests, one.challenges) == (12, 3)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_is_told(meter, password):
    one, host = meter(PASSWORD)
    with pytest.raises(CannotAsk, match="401"):
        fetched(host, password)
    assert one.requests == 0


def test_a_device_that_is_not_there_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(CannotAsk, match="ConnectError"):
            fetched(f"127.0.0.1:{taken.getsockname()[1]}", None)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Where something listens that answers one request with these bytes, or never."""
    over = threading.Event()

    def run() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            if answer is None:
                over.wait(60)
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, "more than 65536"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "RemoteProtocolError"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n", "302"),
        (b"not HTTP at all\r\n\r\n", "RemoteProtocolError"),
        (None, "ReadTimeout"),
    ],
)
def test_odd_answers_are_told(monkeypatch, answer, what):
    monkeypatch.setattr(http_status, "TIMEOUT_S", 1.0 if answer is None else 30.0)
    with answering(answer) as host, pytest.raises(CannotAsk, match=what):
        fetched(host, None)


def test_gen1_is_asked_for_its_status():
    body = json.dumps({"meters": []}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with answering(head + body) as host:
        assert fetched(host, "pw", address="shelly1:shellyplug-s-1") == [body]


@pytest.mark.parametrize("host", ["a/b", "http://a", "a b", "", "a@b", "::1", "a:b"])
def test_only_a_host_is_a_host(host):
    with pytest.raises(CannotAsk):
        require_host(host)


@pytest.mark.parametrize("host", ["192.168.1.5", "meter.local", "127.0.0.1:8080", "[::1]:80"])
def test_hosts(host):
    assert require_host(host) == host


def test_a_secret_is_a_file_of_its_folder(tmp_path: Path):
    (tmp_path / "meter").write_text("pw\n")
    assert password_in(tmp_path, "meter") == "pw"
    for name in ("../meter", ".hidden", "missing", "a/b", ""):
        with pytest.raises(CannotAsk):
            password_in(tmp_path, name)
