"""Roots and manifests on the server's side; the node reads the same ones in tests/firmware."""

from decimal import Decimal

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.firmware_bundle import bundle_of
from schemas.command import CommandState
from schemas.firmware import FIRMWARE_KIND, ROOT_KIND, Envelope, Manifest, Root
from streams.firmware.documents import (
    add_signature,
    canonical,
    first_root,
    key_id,
    manifest_of,
    next_root,
    require_image,
    role,
    sign_manifest,
    sign_root,
    trusted_manifest,
)
from streams.firmware.errors import BadImage, NotTrusted
from streams.firmware.rollout import Limits, status_after, why_halted

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(6)]
IMAGE = bytes(range(256)) * 40


def root(version: int = 1, signers: list[Ed25519PrivateKey] | None = None) -> tuple[Root, Envelope]:
    made = Root(
        version=version,
        created=1,
        expires=2_000_000_000,
        root=role([key.public_key() for key in KEYS[:3]], 2),
        targets=role([KEYS[3].public_key()], 1),
    )
    return made, sign_root(made, KEYS[:2] if signers is None else signers)


def manifest(**changed: object) -> Manifest:
    told = {
        "product": "node",
        "hw_rev": "r1",
        "version": "2.0",
        "security_counter": 3,
        "created": 1,
        "expires": 2_000_000_000,
        "signer": KEYS[3].public_key(),
    }
    return manifest_of(IMAGE, **(told | changed))  # type: ignore[arg-type]


def test_what_is_signed_is_sorted_text_without_spaces():
    text = canonical(manifest())
    assert text.startswith('{"chunk_hashes":["')
    assert text.endswith('"size":10240,"v":1,"version":"2.0"}')
    assert " " not in text


def test_a_signed_manifest_is_trusted_and_its_image_is_that_one():
    envelope = sign_manifest(manifest(), KEYS[3])
    said = trusted_manifest(envelope, root()[0])
    assert said == manifest()
    require_image(said, IMAGE)
    assert len(said.chunk_hashes) == 3
    for other in (IMAGE[:-1], IMAGE + b"\0", b"\1" + IMAGE[1:]):
        with pytest.raises(BadImage):
            require_image(said, other)


@pytest.mark.parametrize("size", [1, 300_000, 1_600_000, 4 * 2**20])
def test_the_hashes_of_any_image_fit_into_what_a_node_takes(size: int):
    made = manifest_of(
        bytes(size),
        product="n" * 64,
        hw_rev="r" * 64,
        version="v" * 64,
        security_counter=2**31 - 1,
        created=1,
        expires=2**39,
        signer=KEYS[3].public_key(),
    )
    trusted_manifest(sign_manifest(made, KEYS[3]), root()[0])


def test_what_the_targets_key_has_not_signed_is_not_trusted():
    trusted = root()[0]
    unsigned = Envelope(canonical(manifest()), [])
    for envelope in (
        unsigned,
        sign_manifest(manifest(), KEYS[0]),
        add_signature(unsigned, ROOT_KIND, KEYS[3]),
        msgspec.structs.replace(sign_manifest(manifest(), KEYS[3]), payload=canonical(root()[0])),
    ):
        with pytest.raises(NotTrusted):
            trusted_manifest(envelope, trusted)


def test_a_root_follows_if_enough_keys_of_both_have_signed_it():
    trusted, _ = root()
    assert next_root(trusted, root(2)[1]).version == 2
    for envelope in (root(3)[1], root(1)[1], root(2, KEYS[:1])[1], root(2, KEYS[3:5])[1]):
        with pytest.raises(NotTrusted):
            next_root(trusted, envelope)


def test_one_key_that_signs_twice_is_one_key():
    once = root(signers=KEYS[:1])[1]
    with pytest.raises(NotTrusted):
        first_root(Envelope(once.payload, once.signatures * 2))
    assert len(add_signature(once, ROOT_KIND, KEYS[0]).signatures) == 1


def test_a_key_under_the_name_of_another_is_refused():
    said = msgspec.json.decode(canonical(root()[0]))
    keys = said["targets"]["keys"]
    keys[key_id(KEYS[3].public_key())] = KEYS[4].public_key().public_bytes_raw().hex()
    envelope = Envelope(msgspec.json.encode(said).decode(), [])
    for key in KEYS[:2]:
        envelope = add_signature(envelope, ROOT_KIND, key)
    with pytest.raises(NotTrusted, match="not the one of that name"):
        first_root(envelope)


@pytest.mark.parametrize("payload", ["", "{}", "[]", "nonsense", '{"v":1}', "\ud800"])
def test_a_signed_text_that_is_no_manifest_is_refused(payload: str):
    try:
        envelope = add_signature(Envelope(payload, []), FIRMWARE_KIND, KEYS[3])
    except UnicodeEncodeError:
        return
    with pytest.raises(NotTrusted):
        trusted_manifest(envelope, root()[0])


def test_the_same_files_make_the_same_image():
    files = {"b.py": b"2", "a.py": b"1"}
    assert bundle_of(files) == bundle_of(dict(sorted(files.items())))
    assert bundle_of(files) != bundle_of({"a.py": b"2", "b.py": b"1"})


# ---- roll-outs ----


@pytest.mark.parametrize(
    ("done", "failed", "halted"),
    [(0, 0, False), (9, 0, False), (0, 1, True), (30, 1, False), (18, 1, True), (19, 1, False)],
)
def test_a_roll_out_halts_above_its_share_of_failures(done: int, failed: int, halted: bool):
    """5 %: one of twenty is just allowed; one of the first ten (0.5 allowed) is not."""
    assert (why_halted(done, failed, Limits(Decimal(5), 10)) is not None) == halted


def test_few_results_are_judged_as_if_the_rest_were_good():
    assert why_halted(0, 1, Limits(Decimal(10), 10)) is None
    assert why_halted(0, 2, Limits(Decimal(10), 10)) == "2 of 2 failed; 10 % are allowed"
    assert why_halted(0, 1, Limits(Decimal(0), 10)) is not None


def test_silence_after_the_beginning_is_a_failure():
    expired = CommandState.EXPIRED
    assert status_after(expired, received=True, late_answer=None) == ("failed", True)
    assert status_after(expired, received=False, late_answer=None) == ("waiting", False)
    assert status_after(expired, received=True, late_answer="done") == ("done", False)
    assert status_after(CommandState.DONE, received=True, late_answer=None) == ("done", False)
    assert status_after(CommandState.CANCELLED, received=False, late_answer=None)[0] == "failed"
