"""What an account's document must have; read once, at the start or when it is set. Pure."""

from binascii import a2b_base64

from micropython import const
from node.account import BadAccount

_MAX_TEXT = const(128)
_MAX_PEM = const(4096)


def fill(account, document):
    """Give `account` what the document says. Raises BadAccount."""
    if not isinstance(document, dict):
        raise BadAccount("no account")
    account.home = _level(document, "home")
    account.node = _level(document, "node")
    wifi = document.get("wifi") or {}
    account.ssid = _text(wifi, "ssid", "")
    account.password = _text(wifi, "password", "")
    mqtt = document.get("mqtt")
    if not isinstance(mqtt, dict):
        raise BadAccount("mqtt is missing")
    account.host = _text(mqtt, "host", None)
    account.port = mqtt.get("port", 8883 if mqtt.get("tls") else 1883)
    if not isinstance(account.port, int) or not 0 < account.port < 65536:
        raise BadAccount("mqtt: port is none")
    account.user = _text(mqtt, "user", "") or None
    account.token = _text(mqtt, "token", "") or None
    if account.token is not None and account.user is None:
        raise BadAccount("mqtt: a token needs its user")
    own_id = "homesync-%s-%s" % (account.home, account.node)
    account.client_id = _text(mqtt, "client_id", "") or own_id
    account.ca_der = der(mqtt.get("ca_pem")) if mqtt.get("tls") else None


def der(pem):
    """The first certificate of a PEM text. Raises BadAccount."""
    if not isinstance(pem, str) or len(pem) > _MAX_PEM:
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
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadAccount("%s is missing" % name)
    return value


def _level(document, name):
    value = _text(document, name, None)
    if not value or any(sign in value for sign in "/+#$") or " " in value:
        raise BadAccount("%s cannot stand in a topic" % name)
    return value
