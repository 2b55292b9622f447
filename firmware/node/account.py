"""Where a node belongs and how it gets there: set on the spot, never over MQTT, never logged. Pure.

{"home", "node", "wifi": {"ssid", "password"},
 "mqtt": {"host", "port", "tls", "user", "token", "client_id", "ca_pem"}}
"""

from binascii import a2b_base64

MAX_TEXT = 128
MAX_PEM = 4096


class BadAccount(Exception):
    """It cannot be taken; the text says why, and no secret."""


class Account:
    """Raises BadAccount."""

    def __init__(self, document):
        if not isinstance(document, dict):
            raise BadAccount("no account")
        self.home = _level(document, "home")
        self.node = _level(document, "node")
        wifi = document.get("wifi") or {}
        self.ssid = _text(wifi, "ssid", "")
        self.password = _text(wifi, "password", "")
        mqtt = document.get("mqtt")
        if not isinstance(mqtt, dict):
            raise BadAccount("mqtt is missing")
        self.host = _text(mqtt, "host", None)
        self.port = mqtt.get("port", 8883 if mqtt.get("tls") else 1883)
        if not isinstance(self.port, int) or not 0 < self.port < 65536:
            raise BadAccount("mqtt: port is none")
        self.user = _text(mqtt, "user", "") or None
        self.token = _text(mqtt, "token", "") or None
        if self.token is not None and self.user is None:
            raise BadAccount("mqtt: a token needs its user")
        self.client_id = _text(mqtt, "client_id", "") or "homesync-%s-%s" % (self.home, self.node)
        self.ca_der = der(mqtt.get("ca_pem")) if mqtt.get("tls") else None

    def topic(self, tail):
        return "homesync/%s/nodes/%s/%s" % (self.home, self.node, tail)


def der(pem):
    """The first certificate of a PEM text. Raises BadAccount."""
    if not isinstance(pem, str) or len(pem) > MAX_PEM:
        raise BadAccount("mqtt: tls needs ca_pem")
    head, tail = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    begin, end = pem.find(head), pem.find(tail)
    if begin < 0 or end < begin:
        raise BadAccount("mqtt: ca_pem is no certificate")
    try:
        return a2b_base64(pem[begin + len(head) : end].replace("\n", "").replace("\r", ""))
    except ValueError:
        raise BadAccount("mqtt: ca_pem is no certificate")


def _text(document, name, default):
    value = document.get(name, default)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadAccount("%s is missing" % name)
    return value


def _level(document, name):
    value = _text(document, name, None)
    if not value or any(sign in value for sign in "/+#$") or " " in value:
        raise BadAccount("%s cannot stand in a topic" % name)
    return value
