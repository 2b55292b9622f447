"""A PZEM-004T v3 behind a socket: answers the real frames, measures a steady load."""

import socket
import threading
import time
from dataclasses import dataclass, field


@dataclass
class SimulatedPzem:
    """`power_dw` and `energy_wh` are what it shows. `garble` turns each reply into what it gives.

    `asked` has every request heard. Serves until `close`.
    """

    address: int = 0xF8
    power_dw: int = 12_345
    energy_wh: int = 1_000
    voltage_dv: int = 2_301
    grows: bool = True  # one Wh with each reading, so that no two are alike
    asked: list[bytes] = field(default_factory=list)
    garble: "object" = None

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.2)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        while not self._closing:
            try:
                line, _ = self._server.accept()
            except TimeoutError:
                continue
            line.settimeout(0.2)
            with line:
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        while not self._closing:
            try:
                request = line.recv(64)
            except TimeoutError:
                continue
            except OSError:
                return
            if not request:
                return
            self.asked.append(request)
            reply = self.reply(request)
            if callable(self.garble):
                reply = self.garble(reply)
            try:
                line.sendall(reply)
            except OSError:
                return

    def reply(self, request: bytes) -> bytes:
        """What a meter says to a request; nothing to a damaged one, or another's."""
        if len(request) < 4 or crc16(request[:-2]) != int.from_bytes(request[-2:], "little"):
            return b""
        if request[0] != self.address:
            return b""
        if request[1] == 0x42:
            self.energy_wh = 0
            return request
        if request[1] == 0x06 and request[2:4] == b"\0\2" and len(request) == 8:
            self.address = int.from_bytes(request[4:6], "big")
            return request
        if request[1] != 0x04:
            return framed(bytes([request[0], request[1] | 0x80, 1]))
        if self.grows:
            self.energy_wh += 1
        current_ma = self.power_dw * 1000 // self.voltage_dv
        words = [self.voltage_dv]
        for value in (current_ma, self.power_dw, self.energy_wh):
            words += [value & 0xFFFF, value >> 16]
        words += [500, 100, 0]
        data = b"".join(word.to_bytes(2, "big") for word in words)
        time.sleep(0.001)
        return framed(bytes([request[0], 0x04, len(data)]) + data)


def framed(body: bytes) -> bytes:
    return body + crc16(body).to_bytes(2, "little")


def crc16(data: bytes) -> int:
    """By table-free long division, not the node's own code."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            carry = crc & 1
            crc >>= 1
            if carry:
                crc ^= 0xA001
    return crc
