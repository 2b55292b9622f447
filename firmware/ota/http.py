"""A piece of a file over HTTP/1.1: one request, one connection, a deadline for all of it.

The image is signed, so plain HTTP is enough where a board has no memory for a second TLS.
"""

import socket
import time

from micropython import const

_LONGEST_HEAD = const(2048)


def plain(host, port, timeout_s):
    """A connected socket."""
    address = socket.getaddrinfo(host, port)[0][-1]
    connection = socket.socket()
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def fetch(url, offset, length, deadline_s=20, connect=plain):
    """`length` bytes from `offset` of what lies at `url` (http://host[:port]/path).

    Raises OSError for everything that may be better the next time.
    """
    host, port, path = _parts(url)
    ends_at = time.time() + deadline_s
    connection = connect(host, port, min(5, deadline_s))
    try:
        request = (
            "GET %s HTTP/1.1\r\nHost: %s:%d\r\nRange: bytes=%d-%d\r\nConnection: close\r\n\r\n"
            % (path, host, port, offset, offset + length - 1)
        )
        _send(connection, request.encode())
        head, body = _head(connection, ends_at)
        _check(head, length)
        parts = [body]
        missing = length - len(body)
        while missing > 0:
            part = _receive(connection, min(missing, 1024), ends_at)
            parts.append(part)
            missing -= len(part)
    finally:
        connection.close()
    return b"".join(parts)[:length]


def _parts(url):
    if not url.startswith("http://"):
        raise OSError("%s is no http address" % url)
    place, _, path = url[7:].partition("/")
    host, _, port = place.partition(":")
    if not host or (port and not port.isdigit()):
        raise OSError("%s is no http address" % url)
    return host, int(port or 80), "/" + path


def _send(connection, data):
    sent = 0
    while sent < len(data):
        sent += connection.send(data[sent:])


def _receive(connection, length, ends_at):
    if time.time() > ends_at:
        raise OSError("the server is too slow")
    part = connection.recv(length)
    if not part:
        raise OSError("the server hung up")
    return part


def _head(connection, ends_at):
    """The answer's head in lower case, and what came of the body."""
    text = b""
    while b"\r\n\r\n" not in text:
        if len(text) > _LONGEST_HEAD:
            raise OSError("the answer's head is too long")
        text += _receive(connection, 256, ends_at)
    head, _, body = text.partition(b"\r\n\r\n")
    return head.lower(), body


def _check(head, length):
    status = head.split(b" ", 2)
    if len(status) < 2 or status[1] != b"206":
        raise OSError("the server answers %s" % head[:60])
    if b"\r\ncontent-length: %d\r\n" % length not in head + b"\r\n":
        raise OSError("the server sends another length")
