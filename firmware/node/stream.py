"""A TCP or TLS connection that never blocks, on MicroPython and on CPython.

Only the look-up of the host's name may block (there is no other way): boards bound it to some
seconds, and the watchdog's time is longer.
"""

import select
import socket

from micropython import const

try:
    import ssl
except ImportError:
    import tls as ssl  # Debian's unix port: what `ssl` is made of, without names for arguments

_IN_PROGRESS = const((115, 119, 11))  # EINPROGRESS on Linux and lwIP, EAGAIN
_AGAIN = const((11, -26880, -26752))  # EAGAIN, and mbedTLS's "want read" and "want write"


class Broken(Exception):
    """The connection is gone; the text says how."""


def tls_context(ca_der):
    """Trusts this CA alone, and checks the host's name.

    Raises Broken where the board's TLS cannot verify (ESP8266): no silent downgrade.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_REQUIRED
        if ssl.__name__ == "tls":
            context.load_verify_locations(ca_der)
        else:
            context.load_verify_locations(cadata=ca_der)
    except (AttributeError, NotImplementedError, TypeError, ValueError, OSError) as error:
        raise Broken("this board cannot verify a certificate: %r" % (error,))
    return context


class Stream:
    """Connects as it is made. `ready` when bytes can flow. With `context` over TLS."""

    def __init__(self, host, port, context=None):
        self._host = host
        self._context = context
        self.ready = False
        self._tls = None
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, kind)
            self.socket.setblocking(False)
        except OSError as error:
            raise Broken("no way to %s: %s" % (host, error))
        try:
            self.socket.connect(address)
        except OSError as error:
            if error.errno not in _IN_PROGRESS:
                self.close()
                raise Broken("%s: %s" % (host, error))
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLOUT)

    def connecting(self):
        """Go on with connecting; True when done. Raises Broken."""
        if self.ready:
            return True
        events = self._poll.poll(0)
        if not events:
            return False
        if events[0][1] & (select.POLLERR | select.POLLHUP):
            raise Broken("%s does not answer" % self._host)
        if self._context is not None:
            try:
                self._tls = self._context.wrap_socket(
                    self.socket, server_hostname=self._host, do_handshake_on_connect=False
                )
            except (OSError, ValueError) as error:
                raise Broken("TLS with %s: %s" % (self._host, error))
        self.ready = True
        return True

    def read_into(self, view):
        """Bytes read, 0 when there are none now. Raises Broken at the end of the stream."""
        source = self._tls or self.socket
        try:
            got = source.readinto(view) if hasattr(source, "readinto") else source.recv_into(view)
        except (OSError, ValueError) as error:  # ValueError: the certificate is not to be trusted
            if _is_again(error):
                return 0
            raise Broken("%s: %s" % (self._host, error))
        if got is None:
            return 0
        if got == 0:
            raise Broken("%s has closed the connection" % self._host)
        return got

    def write(self, data):
        """Bytes taken, 0 when the way is full. Raises Broken."""
        sink = self._tls or self.socket
        try:
            taken = sink.write(data) if hasattr(sink, "write") else sink.send(data)
        except (OSError, ValueError) as error:  # ValueError: the certificate is not to be trusted
            if _is_again(error):
                return 0
            raise Broken("%s: %s" % (self._host, error))
        return taken or 0

    def close(self):
        for one in (self._tls, self.socket):
            if one is not None:
                try:
                    one.close()
                except OSError:
                    pass


def _is_again(error):
    return getattr(error, "errno", None) in _AGAIN or "WantRead" in type(error).__name__
