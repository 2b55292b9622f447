"""Whom a node believes: signed documents, and the root that names the keys.

A document travels as {"payload": text, "signatures": [{"key_id", "signature"}]}: what is signed is
the text itself, behind a word for its kind, so nothing signed as one kind is taken for another.

The root, {v, version, expires, root: {threshold, keys}, targets: {threshold, keys}}, is put on the
node by cable. A later one counts only if enough keys of the one before have signed it.
"""

import json
from binascii import hexlify, unhexlify
from hashlib import sha256

from micropython import const

from ota.ed25519 import verify
from ota.errors import Refused

ROOT = b"meterstream root v1\n"
FIRMWARE = b"meterstream firmware v1\n"
_LONGEST_PAYLOAD = const(6144)
_MOST_SIGNATURES = const(8)
_MOST_ROOTS = const(8)


def opened(envelope, kind, role, tick=None):
    """The payload (a dict) of an envelope signed by enough of the role's keys. Raises Refused."""
    if not isinstance(envelope, dict):
        raise Refused("malformed", "the document is no object")
    payload, signatures = envelope.get("payload"), envelope.get("signatures")
    if not isinstance(payload, str) or not isinstance(signatures, list):
        raise Refused("malformed", "the document needs payload and signatures")
    text = payload.encode()
    if len(text) > _LONGEST_PAYLOAD or len(signatures) > _MOST_SIGNATURES:
        raise Refused("too_large", "the document has %d bytes" % len(text))
    signed = set()
    for one in signatures:
        name, signature = _named_signature(one)
        public = role["keys"].get(name)
        if public is None or name in signed:
            continue
        if verify(unhexlify(public), kind + text, signature, tick):
            signed.add(name)
    if len(signed) < role["threshold"]:
        raise Refused(
            "unsigned",
            "%d of %d keys that count have signed it" % (len(signed), role["threshold"]),
        )
    try:
        said = json.loads(payload)
    except ValueError:
        said = None
    if not isinstance(said, dict) or said.get("v") != 1:
        raise Refused("malformed", "the payload is no document of version 1")
    return said


def newest_root(root, envelopes, tick=None):
    """The root after those of `envelopes` that follow `root`, one by one. Raises Refused."""
    if not isinstance(envelopes, list) or len(envelopes) > _MOST_ROOTS:
        raise Refused("malformed", "roots must be a short list")
    for envelope in envelopes:
        if _claimed_version(envelope) > root["version"]:
            root = _next_root(root, envelope, tick)
    return root


def _claimed_version(envelope):
    """Of a root that nobody has checked yet."""
    try:
        return int(json.loads(envelope["payload"])["version"])
    except (KeyError, TypeError, ValueError):
        raise Refused("malformed", "a root has no version") from None


def _next_root(root, envelope, tick):
    """The root that follows `root`, signed by enough keys of both."""
    try:
        said = opened(envelope, ROOT, root["root"], tick)
        checked_root(said)
        if said["version"] != root["version"] + 1:
            raise Refused("wrong_root", "version %r does not follow" % said["version"])
        opened(envelope, ROOT, said["root"], tick)
    except Refused as error:
        raise Refused("wrong_root", error.detail) from None
    return said


def checked_root(root):
    """The same root, if its fields are sound. Raises Refused."""
    sound = isinstance(root, dict)
    for name in ("version", "expires"):
        sound = sound and _is_count(root.get(name))
    for name in ("root", "targets"):
        sound = sound and _is_role(root.get(name))
    if not sound:
        raise Refused("wrong_root", "the root's fields are not sound")
    return root


def key_id(public_key):
    """The name of a key: it cannot be given to another."""
    return hexlify(sha256(public_key).digest()[:8]).decode()


def _is_role(role):
    if not isinstance(role, dict):
        return False
    keys, threshold = role.get("keys"), role.get("threshold")
    if not isinstance(keys, dict) or not _is_count(threshold) or not 1 <= threshold <= len(keys):
        return False
    for name, public in keys.items():
        key = hex_bytes(public, 32)
        if key is None or key_id(key) != name:
            return False
    return True


def _named_signature(one):
    name = one.get("key_id") if isinstance(one, dict) else None
    signature = hex_bytes(one.get("signature"), 64) if isinstance(one, dict) else None
    if not isinstance(name, str) or signature is None:
        raise Refused("malformed", "a signature needs key_id and 64 bytes in hex")
    return name, signature


def hex_bytes(text, length):
    """The bytes that `text` says in hex, None if it does not say so many."""
    if not isinstance(text, str) or len(text) != 2 * length:
        return None
    try:
        return unhexlify(text)
    except ValueError:
        return None


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
