"""The page on which a node is set up, in its own network or in the house's. Pure.

One request a connection, bounded; the form has the network and what `POST /api/v1/devices` gave
as `mqttConfig`. Secrets are taken and never shown.
"""

import json

MAX_REQUEST = 6144
MAX_HEAD = 1024

_PAGE = """<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Meterstream node</title><h1>Meterstream node</h1><p>%s</p><form method=post action=/>
<p><label>Network<br><input name=ssid maxlength=32 value="%s"></label>
<p><label>Password<br><input name=password type=password maxlength=64></label>
<p><label>Home<br><input name=home maxlength=64></label>
<p><label>Node<br><input name=node maxlength=64></label>
<p><label>mqttConfig<br><textarea name=mqtt rows=6 cols=40></textarea></label>
<p><button>Save</button></form>"""


class BadRequest(Exception):
    """It is refused with `status`; nothing has changed."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


def complete(data):
    """Whether a request is all there. Raises BadRequest where it never will be."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD:
            raise BadRequest(431, "the head is too long")
        return False
    return len(data) >= end + 4 + _length(data[:end])


def form_of(data):
    """The form's fields of a POST; None for a GET of the page. Raises BadRequest."""
    end = data.find(b"\r\n\r\n")
    words = data[:end].split(b"\r\n")[0].split(b" ")
    if len(words) != 3 or words[1] != b"/":
        raise BadRequest(404, "there is only /")
    if words[0] == b"GET":
        return None
    if words[0] != b"POST":
        raise BadRequest(405, "GET or POST")
    return parse_form(data[end + 4 : end + 4 + _length(data[:end])])


def parse_form(body):
    """Fields of application/x-www-form-urlencoded. Raises BadRequest."""
    fields = {}
    for pair in body.split(b"&"):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        try:
            fields[_unquote(name).decode()] = _unquote(value).decode()
        except (ValueError, UnicodeError):
            raise BadRequest(400, "a field that is no text")
    return fields


def account_of(fields, wifi=None):
    """The document that `node.account` takes, out of the form. Raises BadRequest.

    `wifi` is the network that works already; the form's counts where it names another.
    """
    if wifi is not None and fields.get("ssid", "") in ("", wifi["ssid"]):
        fields = dict(fields, ssid=wifi["ssid"], password=wifi["password"])
    if not 0 < len(fields.get("ssid", "").encode()) <= 32:
        raise BadRequest(400, "the network has no name")
    try:
        said = json.loads(fields.get("mqtt", ""))
        mqtt = said.get("mqttConfig", said)
        document = {
            "home": fields.get("home", ""),
            "node": fields.get("node", ""),
            "wifi": {"ssid": fields["ssid"], "password": fields.get("password", "")},
            "mqtt": {
                "host": mqtt["host"],
                "port": mqtt["port"],
                "tls": bool(mqtt.get("tls")),
                "user": mqtt.get("user") or "",
                "token": mqtt.get("token") or mqtt.get("password") or "",
                "client_id": mqtt.get("clientId") or "",
                "ca_pem": mqtt.get("caPem") or mqtt.get("ca_pem") or "",
            },
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest(400, "mqttConfig is not what the API gave")
    return document


def page(message, ssid=""):
    """The page, with what there is to say; never a secret."""
    return answer(200, _PAGE % (_escape(message), _escape(ssid)))


def answer(status, text):
    body = text.encode()
    head = "HTTP/1.1 %d\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n" % (
        status,
        len(body),
    )
    return head.encode() + b"Cache-Control: no-store\r\nConnection: close\r\n\r\n" + body


def _length(head):
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            try:
                length = int(value)
            except ValueError:
                raise BadRequest(400, "no length")
            if not 0 <= length <= MAX_REQUEST:
                raise BadRequest(413, "too long")
            return length
    return 0


def _unquote(text):
    parts = text.replace(b"+", b" ").split(b"%")
    out = bytearray(parts[0])
    for part in parts[1:]:
        if len(part) < 2:
            raise ValueError("cut short")
        out.append(int(part[:2].decode(), 16))
        out.extend(part[2:])
    return bytes(out)


def _escape(text):
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, name)
    return text
