"""A node's hardware on a PC: the meter behind a socket, relays and switches in files.

Environment: NODE_METER host:port of the serial line; NODE_RELAYS their number. The folder it runs
in is the flash. Files there: `board.json` (product and hardware, as `hal` reads them), `relays.log`
(a line for each time a relay was driven), `switch<N>` (its text is the wall switch's position),
`link_down` (there is no network while it exists).
Without a network, and with NODE_SKIP=1, waiting takes no time: the clock goes on by itself.
"""

import gc
import json
import os
import select
import socket
import sys
import time

from node.uptime import Uptime

DEVICE = {"product": "node", "hw_rev": "pc", "slot_bytes": 262_144}


class Pin:
    def __init__(self, index):
        self._index = index

    def set(self, closed):
        with open("relays.log", "a") as file:
            file.write("%d %d\n" % (self._index, closed))


class SocketSerial:
    """What a UART is on a board. Bytes for nobody are lost, as on a wire."""

    def __init__(self, address):
        self._address = address
        self.socket = None

    def write(self, data):
        if self.socket is None:
            self._connect()
        if self.socket is not None:
            try:
                self.socket.send(data)
            except OSError:
                self._close()

    def read(self, most):
        if self.socket is None:
            return None
        try:
            data = self.socket.recv(most)
        except OSError:
            return None
        if not data:
            self._close()
            return None
        return data

    def _connect(self):
        host, _, port = self._address.partition(":")
        self.socket = socket.socket()
        try:
            self.socket.connect(socket.getaddrinfo(host, int(port))[0][-1])
            self.socket.setblocking(False)
        except OSError:
            self._close()

    def _close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class Hal:
    flash = "."
    outbox_folder = "outbox"
    clamp = None

    def __init__(self):
        count = int(os.getenv("NODE_RELAYS") or 0)
        self.relays = [Pin(index) for index in range(count)]
        self.switches = [_switch(index) for index in range(count)]
        self.serial = SocketSerial(os.getenv("NODE_METER") or "127.0.0.1:1")
        self.device = dict(DEVICE)
        if _exists("board.json"):
            with open("board.json") as file:
                self.device.update(json.load(file))
        self._skips = os.getenv("NODE_SKIP") == "1"
        self._skipped_ms = 0
        self._uptime = Uptime(time.ticks_ms, time.ticks_diff)
        if not _exists("outbox"):
            os.mkdir("outbox")

    def log(self, event, **said):
        said["event"] = event
        said["up_ms"] = self.up_ms()
        print(json.dumps(said))

    # ---- time ----

    def up_ms(self):
        return self._uptime.ms() + self._skipped_ms

    def wait(self, ms, client):
        """Until something can be read or written, at most `ms`."""
        if self._skips and not self.link_up() and ms > 10:
            self._skipped_ms += ms
            return
        poll = select.poll()
        if client.pollable is not None:
            poll.register(
                client.pollable, select.POLLIN | (select.POLLOUT if client.has_to_write else 0)
            )
        if self.serial.socket is not None:
            poll.register(self.serial.socket, select.POLLIN)
        poll.poll(ms)

    def kept_unix_ms(self):
        """The time, where it was kept over a deep sleep."""
        try:
            with open("rtc") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def keep_unix_ms(self, unix_ms):
        pass

    # ---- the rest ----

    def random_bytes(self, count):
        return os.urandom(count)

    def random(self, below):
        return int.from_bytes(os.urandom(4), "little") % below

    def link_up(self):
        return not _exists("link_down")

    def rssi_dbm(self):
        return -50

    def memory_bytes(self):
        gc.collect()
        return gc.mem_alloc()

    def feed(self):
        pass

    def pause(self, ms):
        time.sleep_ms(ms)

    def reset(self):
        sys.exit(3)

    def deep_sleep(self, ms):
        self.log("deep_sleep", ms=ms)
        sys.exit(4)


def _switch(index):
    name = "switch%d" % index

    def is_closed():
        try:
            with open(name) as file:
                return file.read(1) == "1"
        except OSError:
            return False

    return is_closed


def _exists(path):
    try:
        os.stat(path)
        return True
    except OSError:
        return False
