"""A command's payload, read with suspicion. Pure.

{"command_id", "command_seq", "issued_at", "expires_at"} with whole Unix seconds, and
{"action": "on" | "off" | "toggle", "relay": name or null} to switch, else {"parameters": {…}}.

Those of an update are larger than the rest of the memory: they come last, and are not read here.
"""

import json

from micropython import const

_SWITCHING = const(("on", "off", "toggle"))
_KINDS = const(("relay", "reboot", "config", "calibrate", "reset_energy", "ota"))
_MAX_SEQ = const(2**31 - 1)
_MAX_ID = const(64)
_MAX_DEPTH = const(8)
_HEAD_BYTES = const(384)  # of an update's command, before its parameters


class Refused(Exception):
    """The command does not run; the text says why. Nothing has changed."""


class Command:
    def __init__(self, kind, said, payload):
        self.kind = kind  # the last level of its topic
        self.payload = payload if kind == "ota" else None
        self.command_id = said["command_id"]
        self.seq = said["command_seq"]
        self.expires_at_s = said["expires_at"]
        self.action = said.get("action")
        self.relay = said.get("relay")
        self.channel = said.get("channel")
        self.parameters = said.get("parameters") or {}


def read(kind, payload):
    """Raises Refused. A payload that names its command has it in the exception's `command_id`."""
    if kind not in _KINDS:
        raise Refused("no command is named %s" % kind[:40])
    said = _object(_head(payload) if kind == "ota" else payload)
    command_id = said.get("command_id")
    if not isinstance(command_id, str) or not 0 < len(command_id) <= _MAX_ID:
        raise Refused("command_id is missing")
    try:
        _refuse_unsound(kind, said)
    except Refused as error:
        error.command_id = command_id
        raise
    return Command(kind, said, payload)


def _refuse_unsound(kind, said):
    _whole(said, "command_seq", 1, _MAX_SEQ)
    _whole(said, "expires_at", 0, 2**40)
    if kind == "relay":
        if said.get("action") not in _SWITCHING:
            raise Refused("action %r is none of on, off, toggle" % (said.get("action"),))
    elif not isinstance(said.get("parameters") or {}, dict):
        raise Refused("parameters is no object")


def _whole(said, name, low, high):
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused("%s %r is no whole number from %d to %d" % (name, value, low, high))


def _head(payload):
    """The command with no parameters."""
    head = bytes(payload[:_HEAD_BYTES])
    end = head.find(b'"parameters"')
    if end < 0:
        raise Refused("parameters do not begin within %d bytes" % _HEAD_BYTES)
    return head[:end] + b'"parameters":{}}'


def _object(payload):
    depth = 0
    for byte in payload:
        if byte in b"{[":
            depth += 1
            if depth > _MAX_DEPTH:
                raise Refused("deeper than %d levels" % _MAX_DEPTH)
        elif byte in b"}]":
            depth -= 1
    try:
        said = json.loads(payload)
    except (ValueError, UnicodeError):
        raise Refused("no JSON")
    if not isinstance(said, dict):
        raise Refused("no JSON object")
    return said
