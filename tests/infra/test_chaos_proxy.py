"""The proxy between two parts: what it does to bytes, and what the two sides see of it."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from infra.chaos.proxy import FINE, Proxies, Proxy, Trouble

HOP = "client-server"


class Echo:
    """A server that says back what it is told; `ended` has how each connection ended."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.ended: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
                self.ended.append("closed")
            except ConnectionResetError:
                self.ended.append("reset")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    one = Echo()
    yield one
    one.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxies({HOP: echo.port}, seed=7) as proxies:
        yield proxies[HOP]


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as one:
        said(one, b"hello")
        yield one


def said(client: socket.socket, data: bytes) -> bytes:
    """What comes back of these bytes."""
    client.sendall(data)
    return heard(client, len(data))


def heard(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = client.recv(size - len(found))
        assert more, "closed"
        found += more
    return found


def silent(client: socket.socket, seconds: float) -> bool:
    client.settimeout(seconds)
    try:
        return client.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_without_trouble_bytes_pass_unchanged_both_ways(proxy: Proxy, client: socket.socket):
    data = bytes(range(256)) * 4_000
    sending = threading.Thread(target=client.sendall, args=(data,))
    sending.start()
    assert heard(client, len(data)) == data
    sending.join()
    assert proxy.connections == 1
    assert proxy.relayed_bytes == 2 * (len(data) + len(b"hello"))


def test_the_end_of_one_side_is_the_end_of_the_other(
    proxy: Proxy, client: socket.socket, echo: Echo
):
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.ended == ["closed"]


def test_latency_is_added_once_in_each_direction(proxy: Proxy, client: socket.socket):
    proxy.set(Trouble(latency_s=0.15))
    begun = time.monotonic()
    assert said(client, b"x") == b"x"
    assert 0.3 <= time.monotonic() - begun < 1.0
    proxy.set(FINE)
    begun = time.monotonic()
    assert said(client, b"x") == b"x"
    assert time.monotonic() - begun < 0.15


def test_latency_with_jitter_keeps_the_order(proxy: Proxy, client: socket.socket):
    proxy.set(Trouble(latency_s=0.01, jitter_s=0.05))
    for number in range(20):
        client.sendall(bytes([number]))
        time.sleep(0.005)
    assert heard(client, 20) == bytes(range(20))


def test_bandwidth_is_bounded(proxy: Proxy, client: socket.socket):
    proxy.set(Trouble(bytes_per_s=40_000))
    begun = time.monotonic()
    said(client, bytes(10_000))
    assert time.monotonic() - begun >= 0.5  # there and back


def test_what_is_stalled_comes_later(proxy: Proxy, client: socket.socket):
    proxy.set(Trouble(stalled=True))
    client.sendall(b"wait")
    assert silent(client, 0.4)
    proxy.set(FINE)
    assert heard(client, 4) == b"wait"


def test_reset_is_seen_by_both_sides(proxy: Proxy, client: socket.socket, echo: Echo):
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    until = time.monotonic() + 5
    while not echo.ended and time.monotonic() < until:
        time.sleep(0.01)
    assert echo.ended == ["reset"]


def test_a_new_connection_is_well_after_a_reset_unless_refused(proxy: Proxy, client: socket.socket):
    proxy.reset()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert said(again, b"again") == b"again"
    proxy.set(Trouble(refused=True))
    with (
        pytest.raises(ConnectionResetError),  # of the connect already, if it comes that early
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as refused,
    ):
        refused.recv(1)


def test_a_half_open_connection_swallows_and_says_nothing(
    proxy: Proxy, client: socket.socket, echo: Echo
):
    assert proxy.half_open() == 1
    client.sendall(b"is anybody there?")
    assert silent(client, 0.4)
    client.sendall(bytes(300_000))
    assert silent(client, 0.1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as other:
        assert said(other, b"yes") == b"yes"
    assert echo.ended[0] == "reset"


def test_one_bit_is_flipped_in_the_second_half_of_a_long_chunk_only(
    proxy: Proxy, client: socket.socket
):
    proxy.set(Trouble(corrupt_every=1, corrupt_from_bytes=100))
    assert said(client, bytes(99)) == bytes(99)
    back = said(client, bytes(100))
    flipped = [(at, byte) for at, byte in enumerate(back) if byte]
    assert proxy.corrupted == 2  # there and back; both may hit the same bit
    assert len(flipped) in (0, 1, 2)
    assert all(at >= 50 and byte.bit_count() <= 2 for at, byte in flipped)
    assert flipped


def test_nobody_listening_is_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with (
        Proxies({HOP: port}) as proxies,
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxies[HOP].port), timeout=5) as client,
    ):
        client.recv(1)
