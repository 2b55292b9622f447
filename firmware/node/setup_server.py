"""Serves the set-up page on port 80 until an account was given; a deadline on every wait."""

import socket
import time

from micropython import const
from node import setup_page
from node.account import Account, BadAccount
from node.setup_page import BadRequest

_REQUEST_WITHIN_S = const(10)
GREETING = "Give the node its network and its account."


def serve(store, feed, wifi=None, port=80, host="0.0.0.0"):
    """Returns when an account was stored. `feed()` keeps the watchdog quiet."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(socket.getaddrinfo(host, port)[0][-1])
    server.listen(1)
    server.settimeout(2)
    try:
        while True:
            feed()
            try:
                client = server.accept()[0]
            except OSError:
                continue
            try:
                client.settimeout(2)
                if _serve_one(client, store, wifi):
                    return
            except OSError:
                pass  # the browser went away
            finally:
                client.close()
    finally:
        server.close()


def _serve_one(client, store, wifi):
    """One request; True when the account was stored."""
    try:
        fields = setup_page.form_of(_request(client))
        if fields is None:
            _send(client, setup_page.page(GREETING, wifi["ssid"] if wifi else ""))
            return False
        document = setup_page.account_of(fields, wifi)
        Account(document)
        store.write(document)
    except BadRequest as error:
        _send(client, setup_page.answer(error.status, str(error)))
        return False
    except BadAccount as error:
        _send(client, setup_page.answer(400, str(error)))
        return False
    _send(client, setup_page.answer(200, "Saved. The node restarts."))
    return True


def _request(client):
    data = b""
    until = time.time() + _REQUEST_WITHIN_S
    while not data or not setup_page.complete(data):
        if time.time() >= until:
            raise BadRequest(408, "too slow")
        piece = client.recv(512)
        if not piece:
            raise BadRequest(400, "cut short")
        data += piece
        if len(data) > setup_page.MAX_HEAD + setup_page.MAX_REQUEST:
            raise BadRequest(413, "too long")
    return data


def _send(client, data):
    sent = 0
    while sent < len(data):
        sent += client.send(data[sent:])
