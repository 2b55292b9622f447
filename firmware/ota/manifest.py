"""What is said of an image, and whether this node may take it."""

from micropython import const

from ota.errors import Refused
from ota.trust import FIRMWARE, hex_bytes, opened

BOOTLOADER = 1  # what a manifest's min_bootloader is held against
_LEAST_CHUNK = const(64)
_LARGEST_CHUNK = const(65_536)
_WORDS = ("product", "hw_rev", "version", "sha256")
_NUMBERS = ("security_counter", "size", "chunk_size", "created", "expires", "min_bootloader")


def accepted(envelope, root, device, counter, now_s, tick=None):
    """The manifest in `envelope`, if this node may take its image. Raises Refused.

    `device` is {"product", "hw_rev", "slot_bytes"}, `counter` what was last committed, `now_s` the
    Unix time, None while it is not known.
    """
    manifest = opened(envelope, FIRMWARE, root["targets"], tick)
    _check_fields(manifest)
    if manifest["product"] != device["product"]:
        raise Refused("wrong_product", "it is for %s" % manifest["product"])
    if manifest["hw_rev"] != device["hw_rev"]:
        raise Refused("wrong_hardware", "it is for %s" % manifest["hw_rev"])
    if manifest["security_counter"] < counter:
        raise Refused("older_counter", "%d is below %d" % (manifest["security_counter"], counter))
    if manifest["min_bootloader"] > BOOTLOADER:
        raise Refused("bootloader_too_old", "it needs %d" % manifest["min_bootloader"])
    check_time(manifest, root, now_s)
    if manifest["size"] > device["slot_bytes"]:
        raise Refused("too_large", "the image has %d bytes" % manifest["size"])
    return manifest


def check_time(manifest, root, now_s):
    """Raises Refused if manifest or root are expired, or nobody knows."""
    if now_s is None:
        raise Refused("no_clock", "the node does not know the time yet")
    if now_s >= manifest["expires"] or now_s >= root["expires"]:
        raise Refused("expired", "manifest or root are expired")


def _check_fields(manifest):
    for name in _WORDS:
        if not isinstance(manifest.get(name), str):
            raise Refused("malformed", "%s is no text" % name)
    for name in _NUMBERS:
        value = manifest.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise Refused("malformed", "%s is no count" % name)
    size, chunk = manifest["size"], manifest["chunk_size"]
    hashes = manifest.get("chunk_hashes")
    if not size or not _LEAST_CHUNK <= chunk <= _LARGEST_CHUNK:
        raise Refused("malformed", "size or chunk_size cannot be")
    if not isinstance(hashes, list) or len(hashes) != -(-size // chunk):
        raise Refused("malformed", "there must be a hash for each chunk")
    if not all(_is_hash(text) for text in hashes) or not _is_hash(manifest["sha256"]):
        raise Refused("malformed", "a hash is no 32 bytes in hex")


def _is_hash(text):
    return hex_bytes(text, 32) is not None
