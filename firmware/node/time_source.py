"""Asks a time server now and then, without waiting for it."""

import socket

from micropython import const
from node import sntp
from node.backoff import Backoff

_ANSWER_WITHIN_MS = const(5_000)
_REFRESH_MS = const(21_600_000)


class TimeSource:
    """`host` is a name, or name:port; empty: nobody is asked."""

    def __init__(self, host, clock, random, random_bytes, log):
        self._host, _, port = host.partition(":")
        self._port = int(port) if port.isdigit() else sntp.PORT
        self._clock = clock
        self._backoff = Backoff(random, base_ms=2_000, most_ms=600_000)
        self._random_bytes = random_bytes
        self._log = log
        self._socket = None
        self._ask_at_ms = 0
        self._asked_at_ms = 0
        self._nonce = b""

    def step(self, now_ms, link_up):
        if self._socket is not None:
            self._look_for_answer(now_ms)
        elif self._host and link_up and now_ms >= self._ask_at_ms:
            self._ask(now_ms)

    def _ask(self, now_ms):
        self._nonce = self._random_bytes(8)
        self._asked_at_ms = now_ms
        self._ask_at_ms = now_ms + _ANSWER_WITHIN_MS
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self._host, self._port, 0, socket.SOCK_DGRAM
            )[0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.sendto(sntp.question(self._nonce), address)
        except OSError as error:
            self._fail(now_ms, str(error))

    def _look_for_answer(self, now_ms):
        try:
            answer = self._socket.recvfrom(64)[0]
        except OSError:
            answer = None
        if answer:
            try:
                unix_ms = sntp.unix_ms(answer, self._nonce, now_ms - self._asked_at_ms)
                if not self._clock.set_by_ntp(unix_ms, now_ms):
                    raise sntp.BadTime("a time that cannot be")
                self._close()
                self._backoff.reset()
                self._ask_at_ms = now_ms + _REFRESH_MS
                self._log("time", source="ntp")
            except sntp.BadTime as error:
                self._fail(now_ms, str(error))
        elif now_ms - self._asked_at_ms >= _ANSWER_WITHIN_MS:
            self._fail(now_ms, "no answer")

    def _fail(self, now_ms, why):
        self._close()
        self._ask_at_ms = now_ms + self._backoff.next_ms()
        self._log("no_time", why=why)

    def _close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None
