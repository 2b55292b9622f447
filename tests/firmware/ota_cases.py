"""Updates gone wrong in every way we know, as cases for `ota_device`. The seed decides all."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.firmware import FIRMWARE_KIND, ROOT_KIND, Envelope, Manifest, Root, Signature
from streams.firmware.documents import add_signature, canonical, manifest_of, role, sign_manifest

Case = dict[str, Any]
NOW_S = 1_763_700_000
COUNTER = 5
DEVICE = {"product": "node", "hw_rev": "r1", "slot_bytes": 65_536}
CHUNK = 128


class Workshop:
    """Keys and images of one seed, and the cases made of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.root_keys = [self._key() for _ in range(3)]
        self.targets, self.other = self._key(), self._key()
        self.root = self.root_of(1, self.root_keys, self.targets)

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.chance.randbytes(32))

    def root_of(
        self, version: int, keys: list[Ed25519PrivateKey], targets: Ed25519PrivateKey
    ) -> Root:
        return Root(
            version=version,
            created=NOW_S - 1000,
            expires=NOW_S + 10**8,
            root=role([key.public_key() for key in keys], 2),
            targets=role([targets.public_key()], 1),
        )

    def manifest(self, image: bytes, **changed: Any) -> Manifest:
        told: dict[str, Any] = {
            "product": "node",
            "hw_rev": "r1",
            "version": "2.0",
            "security_counter": COUNTER + self.chance.randrange(3),
            "created": NOW_S - 100,
            "expires": NOW_S + 86_400,
            "signer": self.targets.public_key(),
            "chunk_bytes": CHUNK,
        }
        return manifest_of(image, **(told | changed))

    def case(self, image: bytes, envelope: object, expect: str, **more: Any) -> Case:
        plain = msgspec.to_builtins(envelope)
        return {
            "image": image.hex(),
            "old": self.chance.randbytes(300).hex(),
            "device": DEVICE,
            "root": msgspec.to_builtins(self.root),
            "counter": COUNTER,
            "now_s": NOW_S,
            "command": {"manifest": plain, "url": "http://here/firmware", "roots": []},
            "expect": expect,
            **more,
        }

    def image(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(1, 900))

    def refused(self, expect: str, **changed: Any) -> Case:
        """A well signed manifest that says what this node must not take."""
        image = self.image()
        return self.case(
            image, sign_manifest(self.manifest(image, **changed), self.targets), expect
        )

    def good(self, **more: Any) -> Case:
        image = self.image()
        envelope = sign_manifest(self.manifest(image), self.targets)
        return self.case(image, envelope, "new", **more)

    def rotation(
        self, signers: list[Ed25519PrivateKey], keys: list[Ed25519PrivateKey], version: int = 2
    ) -> tuple[Envelope, Ed25519PrivateKey]:
        """A root of these keys with a new targets key, signed by these."""
        targets = self._key()
        envelope = Envelope(canonical(self.root_of(version, keys, targets)), [])
        for key in signers:
            envelope = add_signature(envelope, ROOT_KIND, key)
        return envelope, targets


def whole(shop: Workshop) -> Case:
    return shop.good()


def flipped_payload(shop: Workshop) -> Case:
    case = shop.good()
    envelope = case["command"]["manifest"]
    text = bytearray(envelope["payload"].encode())
    bit = shop.chance.randrange(8 * len(text))
    text[bit // 8] ^= 1 << bit % 8
    envelope["payload"] = text.decode("utf-8", "replace")
    return case | {"expect": "unsigned"}


def flipped_signature(shop: Workshop) -> Case:
    case = shop.good()
    one = case["command"]["manifest"]["signatures"][0]
    number = int(one["signature"], 16) ^ 1 << shop.chance.randrange(512)
    one["signature"] = f"{number:0128x}"
    return case | {"expect": "unsigned"}


def unsigned(shop: Workshop) -> Case:
    case = shop.good()
    case["command"]["manifest"]["signatures"] = []
    return case | {"expect": "unsigned"}


def signature_of_zeros(shop: Workshop) -> Case:
    case = shop.good()
    case["command"]["manifest"]["signatures"][0]["signature"] = "0" * 128
    return case | {"expect": "unsigned"}


def other_key(shop: Workshop) -> Case:
    image = shop.image()
    return shop.case(image, sign_manifest(shop.manifest(image), shop.other), "unsigned")


def other_key_under_a_known_name(shop: Workshop) -> Case:
    image = shop.image()
    true = sign_manifest(shop.manifest(image), shop.targets)
    false = sign_manifest(shop.manifest(image), shop.other)
    named = Signature(true.signatures[0].key_id, false.signatures[0].signature)
    return shop.case(image, Envelope(true.payload, [named]), "unsigned")


def signed_by_a_root_key(shop: Workshop) -> Case:
    image = shop.image()
    return shop.case(image, sign_manifest(shop.manifest(image), shop.root_keys[0]), "unsigned")


def signed_as_a_root(shop: Workshop) -> Case:
    image = shop.image()
    envelope = Envelope(canonical(shop.manifest(image)), [])
    return shop.case(image, add_signature(envelope, ROOT_KIND, shop.targets), "unsigned")


def wrong_product(shop: Workshop) -> Case:
    return shop.refused("wrong_product", product="plug")


def wrong_hardware(shop: Workshop) -> Case:
    return shop.refused("wrong_hardware", hw_rev="r2")


def older_counter(shop: Workshop) -> Case:
    return shop.refused("older_counter", security_counter=shop.chance.randrange(COUNTER))


def expired(shop: Workshop) -> Case:
    return shop.refused("expired", expires=NOW_S - shop.chance.randrange(10**6))


def no_clock(shop: Workshop) -> Case:
    return shop.good() | {"now_s": None, "expect": "no_clock"}


def expired_root(shop: Workshop) -> Case:
    return shop.good() | {"now_s": NOW_S + 2 * 10**8, "expect": "expired"}


def newer_bootloader(shop: Workshop) -> Case:
    return shop.refused("bootloader_too_old", min_bootloader=2)


def image_too_large(shop: Workshop) -> Case:
    case = shop.good()
    case["device"] = DEVICE | {"slot_bytes": len(bytes.fromhex(case["image"])) - 1}
    return case | {"expect": "too_large"}


def manifest_too_large(shop: Workshop) -> Case:
    image = shop.image()
    envelope = Envelope(canonical(shop.manifest(image)) + " " * 8192, [])
    return shop.case(image, add_signature(envelope, FIRMWARE_KIND, shop.targets), "too_large")


def another_image_served(shop: Workshop) -> Case:
    case = shop.good()
    return case | {
        "image": shop.chance.randbytes(len(case["image"]) // 2).hex(),
        "expect": "damaged",
    }


def image_flipped(shop: Workshop) -> Case:
    case = shop.good()
    bit = shop.chance.randrange(4 * len(case["image"]))
    return case | {"served": {"flip": bit}, "expect": "damaged"}


def image_flipped_once(shop: Workshop) -> Case:
    case = shop.good()
    bit = shop.chance.randrange(4 * len(case["image"]))
    return case | {"served": {"flip": bit, "once": True}}


def image_truncated(shop: Workshop) -> Case:
    case = shop.good()
    cut = shop.chance.randrange(len(case["image"]) // 2)
    return case | {"served": {"cut": cut}, "expect": "damaged"}


def connection_lost(shop: Workshop) -> Case:
    case = shop.good()
    cut = shop.chance.randrange(len(case["image"]) // 2)
    return case | {"served": {"cut": cut, "once": True}}


def manifest_truncated(shop: Workshop) -> Case:
    case = shop.good()
    envelope = case["command"]["manifest"]
    envelope["payload"] = envelope["payload"][: shop.chance.randrange(len(envelope["payload"]))]
    return case | {"expect": "unsigned"}


def never_healthy(shop: Workshop) -> Case:
    return shop.good() | {"sick": True, "expect": "not_healthy"}


def slot_decays(shop: Workshop) -> Case:
    case = shop.good()
    bit = shop.chance.randrange(4 * len(case["image"]))
    return case | {"rot": {"file": "b.img", "bit": bit}, "expect": "damaged"}


def new_keys(shop: Workshop) -> Case:
    """The root and the targets key were changed since the node was made."""
    fresh = [shop._key() for _ in range(2)]
    envelope, targets = shop.rotation([*shop.root_keys[:2], *fresh], [shop.root_keys[0], *fresh])
    return _with_roots(shop, [envelope], targets, "new")


def new_keys_twice(shop: Workshop) -> Case:
    one, _ = shop.rotation(shop.root_keys[1:], shop.root_keys)
    two, targets = shop.rotation(shop.root_keys[:2], shop.root_keys, version=3)
    return _with_roots(shop, [one, two], targets, "new")


def new_keys_signed_by_one(shop: Workshop) -> Case:
    envelope, targets = shop.rotation(shop.root_keys[:1], shop.root_keys)
    return _with_roots(shop, [envelope], targets, "wrong_root")


def new_keys_signed_by_themselves(shop: Workshop) -> Case:
    fresh = [shop._key() for _ in range(2)]
    envelope, targets = shop.rotation(fresh, fresh)
    return _with_roots(shop, [envelope], targets, "wrong_root")


def new_keys_signed_twice_by_one(shop: Workshop) -> Case:
    envelope, targets = shop.rotation(shop.root_keys[:1], shop.root_keys)
    doubled = Envelope(envelope.payload, envelope.signatures * 2)
    return _with_roots(shop, [doubled], targets, "wrong_root")


def a_root_left_out(shop: Workshop) -> Case:
    envelope, targets = shop.rotation(shop.root_keys, shop.root_keys, version=3)
    return _with_roots(shop, [envelope], targets, "wrong_root")


def old_targets_key(shop: Workshop) -> Case:
    """Signed by the key that the new root left out."""
    envelope, _ = shop.rotation(shop.root_keys, shop.root_keys)
    return _with_roots(shop, [envelope], shop.targets, "unsigned")


def _with_roots(
    shop: Workshop, roots: list[Envelope], targets: Ed25519PrivateKey, expect: str
) -> Case:
    image = shop.image()
    envelope = Envelope(canonical(shop.manifest(image)), [])
    case = shop.case(image, add_signature(envelope, FIRMWARE_KIND, targets), expect)
    case["command"]["roots"] = msgspec.to_builtins(roots)
    return case


KINDS: tuple[Callable[[Workshop], Case], ...] = (
    whole,
    flipped_payload,
    flipped_signature,
    unsigned,
    signature_of_zeros,
    other_key,
    other_key_under_a_known_name,
    signed_by_a_root_key,
    signed_as_a_root,
    wrong_product,
    wrong_hardware,
    older_counter,
    expired,
    no_clock,
    expired_root,
    newer_bootloader,
    image_too_large,
    manifest_too_large,
    another_image_served,
    image_flipped,
    image_flipped_once,
    image_truncated,
    connection_lost,
    manifest_truncated,
    never_healthy,
    slot_decays,
    new_keys,
    new_keys_twice,
    new_keys_signed_by_one,
    new_keys_signed_by_themselves,
    new_keys_signed_twice_by_one,
    a_root_left_out,
    old_targets_key,
)
"""Besides these: power cuts, see `cases`."""


def cases(count: int, seed: int) -> Iterator[Case]:
    """Each kind in turn; of each second one the power is cut, up to five times, anywhere."""
    shop = Workshop(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        case = kind(shop) | {"number": number, "kind": kind.__name__}
        if number // len(KINDS) % 2:
            case["torn"] = shop.chance.choice(("prefix", "nothing", "garbage"))
            case["cuts"] = [shop.chance.randrange(2500) for _ in range(shop.chance.randrange(1, 6))]
        yield case
