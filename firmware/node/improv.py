"""Improv Wi-Fi over BLE: the packets by which a phone gives a node its network. Pure.

Source: improv-wifi.com/ble. A packet is command, length, data, checksum (low byte of the sum).
"""

SERVICE = "00467768-6228-2272-4663-277478268000"
STATE_UUID = "00467768-6228-2272-4663-277478268001"
ERROR_UUID = "00467768-6228-2272-4663-277478268002"
COMMAND_UUID = "00467768-6228-2272-4663-277478268003"
RESULT_UUID = "00467768-6228-2272-4663-277478268004"
CAPABILITIES_UUID = "00467768-6228-2272-4663-277478268005"

AWAITING_AUTHORIZATION, AUTHORIZED, PROVISIONING, PROVISIONED = 1, 2, 3, 4
NO_ERROR, INVALID_PACKET, UNKNOWN_COMMAND, UNABLE_TO_CONNECT, NOT_AUTHORIZED = 0, 1, 2, 3, 4

SEND_WIFI, IDENTIFY = 1, 2
MAX_PACKET = 258


class BadPacket(Exception):
    """`code` is what the error characteristic says."""

    def __init__(self, code, why):
        super().__init__(why)
        self.code = code


class Gatherer:
    """Puts a packet together from the pieces that BLE makes of it."""

    def __init__(self):
        self._data = bytearray()

    def add(self, piece):
        """(command, data) when the packet is whole, else None. Raises BadPacket."""
        data = self._data
        data.extend(piece)
        if len(data) < 2 or len(data) < data[1] + 3:
            return None
        self._data = bytearray()
        return packet(bytes(data))


def packet(data):
    """(command, data) of a packet. Raises BadPacket."""
    if len(data) < 3 or len(data) != data[1] + 3:
        raise BadPacket(INVALID_PACKET, "%d bytes are no packet" % len(data))
    if sum(data[:-1]) & 0xFF != data[-1]:
        raise BadPacket(INVALID_PACKET, "the checksum is wrong")
    return data[0], data[2:-1]


def wifi_settings(data):
    """(ssid, password) of SEND_WIFI. Raises BadPacket."""
    texts = []
    rest = data
    for _ in range(2):
        if not rest or len(rest) < 1 + rest[0]:
            raise BadPacket(INVALID_PACKET, "a text is cut short")
        texts.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    if rest:
        raise BadPacket(INVALID_PACKET, "%d bytes too many" % len(rest))
    try:
        ssid, password = texts[0].decode(), texts[1].decode()
    except UnicodeError:
        raise BadPacket(INVALID_PACKET, "no UTF-8")
    if not 0 < len(texts[0]) <= 32 or len(texts[1]) > 64:
        raise BadPacket(INVALID_PACKET, "no network has such a name or password")
    return ssid, password


def result(command, *texts):
    """What the node answers to a command: texts, an address to go on at."""
    data = b""
    for text in texts:
        part = text.encode()
        data += bytes((len(part),)) + part
    head = bytes((command, len(data))) + data
    return head + bytes((sum(head) & 0xFF,))


class Session:
    """What a phone does with a node: `connect(ssid, password)` is called once per good packet.

    Authorised while `may_set()`, the node's button pressed or its first minutes.
    """

    def __init__(self, may_set, connect, identify):
        self._may_set = may_set
        self._connect = connect
        self._identify = identify
        self._gatherer = Gatherer()
        self.error = NO_ERROR
        self.state = AUTHORIZED if may_set() else AWAITING_AUTHORIZATION

    def refresh(self):
        """The button may have been pressed."""
        if self.state == AWAITING_AUTHORIZATION and self._may_set():
            self.state = AUTHORIZED

    def written(self, piece):
        """The phone wrote to the command characteristic."""
        try:
            whole = self._gatherer.add(piece)
            if whole is None:
                return
            command, data = whole
            if command == IDENTIFY:
                self._identify()
            elif command == SEND_WIFI:
                if not self._may_set():
                    raise BadPacket(NOT_AUTHORIZED, "press the button first")
                ssid, password = wifi_settings(data)
                self.state = PROVISIONING
                self._connect(ssid, password)
            else:
                raise BadPacket(UNKNOWN_COMMAND, "command %d" % command)
            self.error = NO_ERROR
        except BadPacket as error:
            self._gatherer = Gatherer()
            self.error = error.code

    def connected(self, url):
        """The network took us. Returns what to say on the result characteristic."""
        self.state = PROVISIONED
        return result(SEND_WIFI, url)

    def not_connected(self):
        self.state = AUTHORIZED
        self.error = UNABLE_TO_CONNECT
