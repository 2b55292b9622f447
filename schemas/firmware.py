"""Signed firmware: the documents that a node verifies before it takes an image (docs/ota.md).

What is signed is the payload's own text (canonical JSON), behind a word for its kind. Instants are
seconds since the epoch, UTC; hashes, keys and signatures are lower-case hex.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

ROOT_KIND = b"meterstream root v1\n"
FIRMWARE_KIND = b"meterstream firmware v1\n"
LONGEST_PAYLOAD_BYTES = 6144
MOST_IMAGE_BYTES = 4 * 2**20

Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{128}$")]
KeyId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Word = Annotated[str, Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._+-]{0,63}$")]
Count = Annotated[int, Meta(ge=0, lt=2**31)]
Seconds = Annotated[int, Meta(ge=0, lt=2**40)]


class Signature(msgspec.Struct, frozen=True):
    """`key_id` is the beginning of the public key's SHA-256."""

    key_id: KeyId
    signature: Hex64


class Envelope(msgspec.Struct, frozen=True):
    """A document as it travels."""

    payload: str
    signatures: Annotated[list[Signature], Meta(max_length=8)]


class Role(msgspec.Struct, frozen=True):
    """By their ids the public keys that may sign, and how many of them must."""

    keys: dict[KeyId, Hex32]
    threshold: Annotated[int, Meta(ge=1, le=8)]


class Root(msgspec.Struct, frozen=True):
    """Whom nodes believe. Version n + 1 is signed by enough root keys of n and of itself."""

    version: Annotated[int, Meta(ge=1, lt=2**31)]
    created: Seconds
    expires: Seconds
    root: Role
    targets: Role
    v: int = 1


class Manifest(msgspec.Struct, frozen=True):
    """One image for one kind of hardware, signed by a targets key."""

    product: Word
    hw_rev: Word
    version: Word
    security_counter: Count
    size: Annotated[int, Meta(ge=1, le=MOST_IMAGE_BYTES)]
    sha256: Hex32
    chunk_size: Annotated[int, Meta(ge=64, le=65_536)]
    chunk_hashes: list[Hex32]
    created: Seconds
    expires: Seconds
    min_bootloader: Count
    key_id: KeyId
    v: int = 1


class OtaParameters(msgspec.Struct, frozen=True):
    """The parameters of an `ota` command. `roots` are the root documents after the first."""

    manifest: Envelope
    url: str
    roots: list[Envelope] = msgspec.field(default_factory=list)
