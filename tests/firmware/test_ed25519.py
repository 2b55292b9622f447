"""The node's signature check, against RFC 8032, OpenSSL, and all that must not pass."""

import hashlib
import random
from binascii import unhexlify
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ota.ed25519 import L, P, verify
from ota.sha512 import sha512

# RFC 8032, 7.1: secret, public key, message, signature
RFC_8032 = {
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
        "f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
        "4dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "test SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c664"
        "31e0303dca179c138ac17ad9bef1177331a704",
    ),
}
# Points of order 1, 2, 4 and 8, in every encoding that a lenient decoder takes.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = SECRET.public_key().public_bytes_raw()
MESSAGE = b"what is signed"
SIGNATURE = SECRET.sign(MESSAGE)


@pytest.mark.parametrize("length", [0, 1, 110, 111, 112, 113, 127, 128, 129, 239, 240, 255, 1000])
def test_sha512_is_that_of_the_standard_library(length: int):
    message = bytes(number * 7 % 256 for number in range(length))
    assert sha512(message) == hashlib.sha512(message).digest()


def test_sha512_of_abc():
    assert sha512(b"abc").hex().startswith("ddaf35a193617abacc417349ae204131")  # FIPS 180-4


@pytest.mark.parametrize("name", RFC_8032)
def test_the_vectors_of_rfc_8032(name: str):
    secret, public, message, signature = map(unhexlify, RFC_8032[name])
    assert Ed25519PrivateKey.from_private_bytes(secret).sign(message) == signature
    assert verify(public, message, signature)
    assert not verify(public, message + b"\0", signature)


@settings(max_examples=40, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(max_size=300))
def test_what_openssl_signs_is_accepted(secret: bytes, message: bytes):
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert verify(key.public_key().public_bytes_raw(), message, key.sign(message))


@pytest.mark.parametrize("bit", range(512))
def test_a_flipped_bit_of_the_signature_is_seen(bit: int):
    assert not verify(PUBLIC, MESSAGE, flipped(SIGNATURE, bit))


@pytest.mark.parametrize("bit", range(256))
def test_a_flipped_bit_of_the_key_is_seen(bit: int):
    assert not verify(flipped(PUBLIC, bit), MESSAGE, SIGNATURE)


@pytest.mark.parametrize("bit", range(8 * len(MESSAGE)))
def test_a_flipped_bit_of_the_message_is_seen(bit: int):
    assert not verify(PUBLIC, flipped(MESSAGE, bit), SIGNATURE)


@pytest.mark.parametrize("more", [L, 2 * L, 8 * L, 14 * L])
def test_an_s_of_the_group_order_or_above_is_refused(more: int):
    s = int.from_bytes(SIGNATURE[32:], "little") + more
    assert not verify(PUBLIC, MESSAGE, SIGNATURE[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("s", [0, 1, L - 1])
@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_sign_nothing(point: str, s: int):
    """With A of small order, R = S·B − k·A holds for one message in eight, whoever made it."""
    small, scalar = unhexlify(point), s.to_bytes(32, "little")
    for number in range(16):
        assert not verify(small, bytes([number]), small + scalar)
        assert not verify(PUBLIC, bytes([number]), small + scalar)
    assert not verify(small, MESSAGE, SIGNATURE)


def test_zeros_sign_nothing():
    assert not verify(bytes(32), b"", bytes(64))
    assert not verify(PUBLIC, MESSAGE, bytes(64))
    assert not verify(bytes(32), MESSAGE, SIGNATURE)


@pytest.mark.parametrize("y", [P, P + 1, P + 3, 2**255 - 1])
def test_coordinates_of_the_prime_or_above_are_refused(y: int):
    assert not verify(y.to_bytes(32, "little"), MESSAGE, SIGNATURE)
    assert not verify(PUBLIC, MESSAGE, y.to_bytes(32, "little") + SIGNATURE[32:])


@pytest.mark.parametrize("y", [2, 7, 8, 11])
def test_what_is_no_point_is_refused(y: int):
    text = y.to_bytes(32, "little")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(text).verify(SIGNATURE, MESSAGE)
    assert not verify(text, MESSAGE, SIGNATURE)
    assert not verify(PUBLIC, MESSAGE, text + SIGNATURE[32:])


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (PUBLIC, b""),
        (PUBLIC, SIGNATURE[:-1]),
        (PUBLIC, SIGNATURE + b"\0"),
        (PUBLIC, SIGNATURE[32:]),
        (PUBLIC[:-1], SIGNATURE),
        (PUBLIC + b"\0", SIGNATURE),
        (b"", SIGNATURE),
        (PUBLIC, SIGNATURE[32:] + SIGNATURE[:32]),
    ],
)
def test_what_has_another_length_or_order_is_refused(key: bytes, signature: bytes):
    assert not verify(key, MESSAGE, signature)


def test_another_key_has_not_signed_it():
    other = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    assert not verify(PUBLIC, MESSAGE, other.sign(MESSAGE))
    assert not verify(other.public_key().public_bytes_raw(), MESSAGE, SIGNATURE)


def test_what_we_accept_openssl_accepts():
    """Random keys, signatures and halves of true ones: we are never the more lenient."""
    chance = random.Random(7)
    for _ in range(400):
        key = PUBLIC if chance.random() < 0.5 else chance.randbytes(32)
        r = SIGNATURE[:32] if chance.random() < 0.5 else chance.randbytes(32)
        s = SIGNATURE[32:] if chance.random() < 0.5 else chance.randrange(L).to_bytes(32, "little")
        message = MESSAGE if chance.random() < 0.8 else chance.randbytes(5)
        assert verify(key, message, r + s) == openssl_accepts(key, message, r + s)


def openssl_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def flipped(text: bytes, bit: int) -> bytes:
    changed = bytearray(text)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_watchdog_is_fed_on_the_way():
    fed: list[int] = []
    feed: Callable[[], None] = lambda: fed.append(1)  # noqa: E731
    assert verify(PUBLIC, MESSAGE, SIGNATURE, feed)
    assert len(fed) > 200
