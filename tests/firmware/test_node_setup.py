"""Setting a node up: Improv's packets, the page's form, and secrets that stay secret."""

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node import improv, setup_page
from node.account import Account, BadAccount
from node.improv import Session
from node.setup_page import BadRequest, account_of, complete, form_of, page, parse_form
from node.setup_server import serve
from node.store import Store

MQTT = {
    "host": "broker",
    "port": 8883,
    "tls": False,
    "user": "u",
    "token": "T0KEN",
    "clientId": "c",
}


def packed(command: int, data: bytes) -> bytes:
    head = bytes([command, len(data)]) + data
    return head + bytes([sum(head) & 0xFF])


# As the protocol's page gives it: "MyWirelessAP", "mysecurepassword".
EXAMPLE = bytes.fromhex("011e0c4d79576972656c6573734150106d7973656375726570617373776f7264")


def test_a_network_is_read_from_the_packet():
    data = b"\x0cMyWirelessAP\x10mysecurepassword"
    whole = packed(improv.SEND_WIFI, data)
    assert whole[:-1] == EXAMPLE
    assert improv.packet(whole) == (1, data)
    assert improv.wifi_settings(data) == ("MyWirelessAP", "mysecurepassword")


def test_a_packet_may_come_in_pieces_of_20_bytes():
    joined = []
    session = Session(lambda: True, lambda *network: joined.append(network), lambda: None)
    whole = packed(1, b"\x04home\x40" + b"p" * 64)
    for begin in range(0, len(whole), 20):
        session.written(whole[begin : begin + 20])
    assert joined == [("home", "p" * 64)]
    assert session.state == improv.PROVISIONING
    assert session.connected("http://10.0.0.7/") == packed(1, b"\x10http://10.0.0.7/")
    assert session.state == improv.PROVISIONED


@pytest.mark.parametrize(
    ("whole", "error"),
    [
        (packed(1, b"\x04home\x00")[:-1] + b"\x00", improv.INVALID_PACKET),
        (packed(1, b"\x05home"), improv.INVALID_PACKET),
        (packed(1, b"\x00\x00"), improv.INVALID_PACKET),
        (packed(1, b"\x01a\x00z"), improv.INVALID_PACKET),
        (packed(1, b"\x01\xff\x00"), improv.INVALID_PACKET),
        (packed(1, b"\x21" + b"n" * 33 + b"\x00"), improv.INVALID_PACKET),
        (packed(9, b""), improv.UNKNOWN_COMMAND),
    ],
)
def test_a_wrong_packet_is_an_error_and_the_next_one_is_good(whole: bytes, error: int):
    joined = []
    session = Session(lambda: True, lambda *network: joined.append(network), lambda: None)
    session.written(whole)
    assert (session.error, joined) == (error, [])
    session.written(packed(1, b"\x01a\x00"))
    assert (session.error, joined) == (improv.NO_ERROR, [("a", "")])


def test_without_the_button_nobody_sets_a_network():
    pressed = [False]
    joined = []
    session = Session(lambda: pressed[0], lambda *network: joined.append(network), lambda: None)
    assert session.state == improv.AWAITING_AUTHORIZATION
    session.written(packed(1, b"\x01a\x00"))
    assert (session.error, joined) == (improv.NOT_AUTHORIZED, [])
    pressed[0] = True
    session.refresh()
    assert session.state == improv.AUTHORIZED


@given(st.binary(max_size=300))
def test_any_bytes_leave_the_session_alive(data: bytes):
    joined = []
    session = Session(lambda: True, lambda *network: joined.append(network), lambda: None)
    session.written(data)
    assert session.error in range(5)


def test_a_network_that_does_not_take_us_is_said():
    session = Session(lambda: True, lambda *_: None, lambda: None)
    session.not_connected()
    assert (session.state, session.error) == (improv.AUTHORIZED, improv.UNABLE_TO_CONNECT)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"a=%E0%B8%9A+x%2B&a2=%26", {"a": "บ x+", "a2": "&"}),
        (b"", {}),
        (b"&&x", {"x": ""}),
    ],
)
def test_a_form_is_read(body: bytes, fields: dict[str, str]):
    assert parse_form(body) == fields


@pytest.mark.parametrize("body", [b"a=%", b"a=%4", b"a=%zz", b"a=%ff"])
def test_a_form_that_is_no_text_is_refused(body: bytes):
    with pytest.raises(BadRequest):
        parse_form(body)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=4))
def test_a_form_is_read_as_a_browser_sends_it(fields: dict[str, str]):
    assert parse_form(urllib.parse.urlencode(fields).encode()) == fields


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"PUT / HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 7000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"x" * 2000, 431),
    ],
)
def test_a_request_that_will_not_do_is_refused(request_: bytes, status: int):
    with pytest.raises(BadRequest) as refused:
        form_of(request_ if complete(request_) else b"")
    assert refused.value.status == status


def test_the_page_shows_no_secret_and_no_mark_up_of_others():
    shown = page("hello", '"><script>').decode()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_what_the_api_gave_becomes_the_account():
    fields = {"ssid": "net", "password": "secret", "home": "h1", "node": "n1"}
    for mqtt in (MQTT, {"mqttConfig": MQTT}):
        account = Account(account_of(fields | {"mqtt": json.dumps(mqtt)}))
        assert (account.host, account.token, account.client_id) == ("broker", "T0KEN", "c")
        assert (account.ssid, account.password) == ("net", "secret")
        assert account.topic("ack") == "homesync/h1/nodes/n1/ack"


@pytest.mark.parametrize(
    "change",
    [
        {"home": "a/b"}, {"node": "+"}, {"node": ""}, {"home": None},
        {"mqtt": None}, {"mqtt": MQTT | {"port": 0}}, {"mqtt": MQTT | {"host": 5}},
        {"mqtt": MQTT | {"user": ""}},
        {"mqtt": MQTT | {"tls": True}}, {"mqtt": MQTT | {"tls": True, "ca_pem": "junk"}},
    ],
)  # fmt: skip
def test_an_account_that_cannot_be_is_refused_without_its_secrets(change: dict[str, object]):
    document = {"home": "h", "node": "n", "wifi": {"password": "SECRET"}, "mqtt": MQTT}
    with pytest.raises(BadAccount) as refused:
        Account(document | change)
    assert "SECRET" not in str(refused.value)
    assert "T0KEN" not in str(refused.value)


def test_the_page_sets_a_node_up(tmp_path: Path, unused_port: int):
    store = Store(str(tmp_path / "account"))
    server = threading.Thread(
        target=serve, args=(store, lambda: None, {"ssid": "net", "password": "secret"}),
        kwargs={"port": unused_port, "host": "127.0.0.1"},
    )  # fmt: skip
    server.start()
    url = f"http://127.0.0.1:{unused_port}/"
    with urlopen_when_served(url) as shown:
        text = shown.read().decode()
    assert 'value="net"' in text
    assert "secret" not in text
    form = {"ssid": "net", "home": "h1", "node": "n1", "mqtt": "{}"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30)
    with refused.value:
        assert refused.value.code == 400
    assert store.read() is None
    form["mqtt"] = json.dumps(MQTT)
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30) as saved:
        assert b"Saved" in saved.read()
    server.join(30)
    assert not server.is_alive()
    assert Account(Store(str(tmp_path / "account")).read()).password == "secret"


def urlopen_when_served(url: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(url, timeout=30)
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_the_page_is_small_enough_for_a_board():
    assert len(page(setup_page.BadRequest.__name__)) < 2_000
