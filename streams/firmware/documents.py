"""Making, signing and checking roots and manifests. The same rules as the node's (firmware/ota)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.firmware import (
    FIRMWARE_KIND,
    LONGEST_PAYLOAD_BYTES,
    ROOT_KIND,
    Envelope,
    Manifest,
    Role,
    Root,
    Signature,
)
from streams.firmware.errors import BadImage, NotTrusted

SMALL_CHUNK_BYTES, LARGE_CHUNK_BYTES = 4_096, 65_536
_ROOM_FOR_HASHES_BYTES = 5_000  # of the payload
Document = TypeVar("Document", Manifest, Root)


def key_id(public: Ed25519PublicKey) -> str:
    return sha256(public.public_bytes_raw()).hexdigest()[:16]


def role(keys: Sequence[Ed25519PublicKey], threshold: int) -> Role:
    """Raises NotTrusted if more keys must sign than there are."""
    said = {key_id(key): key.public_bytes_raw().hex() for key in keys}
    if not 1 <= threshold <= len(said):
        raise NotTrusted(f"{threshold} of {len(said)} keys cannot sign; give that many keys")
    return Role(said, threshold)


def manifest_of(
    image: bytes,
    *,
    product: str,
    hw_rev: str,
    version: str,
    security_counter: int,
    created: int,
    expires: int,
    signer: Ed25519PublicKey,
    min_bootloader: int = 1,
    chunk_bytes: int | None = None,
) -> Manifest:
    """What is to be signed of an image. Chunks are as small as the payload has room for hashes.

    Raises NotTrusted if a field cannot be so.
    """
    size = chunk_bytes or SMALL_CHUNK_BYTES
    while chunk_bytes is None and -(-len(image) // size) * 67 > _ROOM_FOR_HASHES_BYTES:
        size *= 2
    found = Manifest(
        product=product,
        hw_rev=hw_rev,
        version=version,
        security_counter=security_counter,
        size=len(image),
        sha256=sha256(image).hexdigest(),
        chunk_size=size,
        chunk_hashes=[
            sha256(image[start : start + size]).hexdigest() for start in range(0, len(image), size)
        ],
        created=created,
        expires=expires,
        min_bootloader=min_bootloader,
        key_id=key_id(signer),
    )
    return _read(canonical(found), Manifest)


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> Envelope:
    return add_signature(Envelope(canonical(manifest), []), FIRMWARE_KIND, key)


def sign_root(root: Root, keys: Sequence[Ed25519PrivateKey]) -> Envelope:
    envelope = Envelope(canonical(root), [])
    for key in keys:
        envelope = add_signature(envelope, ROOT_KIND, key)
    return envelope


def add_signature(envelope: Envelope, kind: bytes, key: Ed25519PrivateKey) -> Envelope:
    """The same document with one signature more: keys may lie on different machines."""
    mine = key_id(key.public_key())
    others = [one for one in envelope.signatures if one.key_id != mine]
    signature = key.sign(kind + envelope.payload.encode()).hex()
    return Envelope(envelope.payload, [*others, Signature(mine, signature)])


def trusted_manifest(envelope: Envelope, root: Root) -> Manifest:
    """Raises NotTrusted."""
    _require_signed(envelope, FIRMWARE_KIND, root.targets)
    manifest = _read(envelope.payload, Manifest)
    if len(manifest.chunk_hashes) != -(-manifest.size // manifest.chunk_size):
        raise NotTrusted("the manifest does not have one hash for each chunk")
    return manifest


def first_root(envelope: Envelope) -> Root:
    """A root that is believed because a person says so; it must have signed itself."""
    root = root_in(envelope)
    _require_signed(envelope, ROOT_KIND, root.root)
    return root


def next_root(root: Root, envelope: Envelope) -> Root:
    """The root after `root`. Raises NotTrusted."""
    following = first_root(envelope)
    _require_signed(envelope, ROOT_KIND, root.root)
    if following.version != root.version + 1:
        raise NotTrusted(
            f"root version {following.version} does not follow {root.version}; "
            f"make version {root.version + 1}"
        )
    return following


def root_in(envelope: Envelope) -> Root:
    """What the envelope says, whoever signed it. Raises NotTrusted if that cannot be."""
    root = _read(envelope.payload, Root)
    for one in (root.root, root.targets):
        if one.threshold > len(one.keys):
            raise NotTrusted(f"{one.threshold} of {len(one.keys)} keys cannot sign")
        for name, public in one.keys.items():
            if sha256(bytes.fromhex(public)).hexdigest()[:16] != name:
                raise NotTrusted(f"the key {name} is not the one of that name")
    return root


def require_image(manifest: Manifest, image: bytes) -> None:
    """Raises BadImage if the bytes are not those of the manifest."""
    if len(image) != manifest.size:
        raise BadImage(f"the image has {len(image)} bytes, the manifest says {manifest.size}")
    if sha256(image).hexdigest() != manifest.sha256:
        raise BadImage("the image's SHA-256 is not the manifest's; sign this image")
    size = manifest.chunk_size
    for number, expected in enumerate(manifest.chunk_hashes):
        if sha256(image[number * size : (number + 1) * size]).hexdigest() != expected:
            raise BadImage(f"chunk {number} does not have the manifest's hash; sign this image")


def canonical(document: Manifest | Root) -> str:
    """Sorted keys, no spaces: one text for one content."""
    return msgspec.json.encode(document, order="sorted").decode()


def _require_signed(envelope: Envelope, kind: bytes, role: Role) -> None:
    text = envelope.payload.encode()
    if len(text) > LONGEST_PAYLOAD_BYTES:
        raise NotTrusted(f"the document has {len(text)} bytes; {LONGEST_PAYLOAD_BYTES} are taken")
    signed = {
        one.key_id
        for one in envelope.signatures
        if one.key_id in role.keys and _is_signed(kind + text, one, role.keys[one.key_id])
    }
    if len(signed) < role.threshold:
        raise NotTrusted(
            f"{len(signed)} of the keys that count have signed it, {role.threshold} must"
        )


def _is_signed(text: bytes, one: Signature, public: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(one.signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(payload: str, kind: type[Document]) -> Document:
    try:
        said = msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError as error:
        raise NotTrusted(f"the document cannot be read: {error}") from error
    if said.v != 1:
        raise NotTrusted(f"the document is of version {said.v}; this reads 1")
    return said
