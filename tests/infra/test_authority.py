"""The certificate authority, with real TLS handshakes between two ends in one process."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from infra.local.authority import Authority
from infra.local.errors import StackError

NOW = datetime.now(UTC)
NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca")
    assert made.init(NOW)
    made.issue("broker", NOW, NAMES)
    return made


def server(authority: Authority, *, asks_clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate("broker"), authority.key("broker"))
    if asks_clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.chain)
        context.load_verify_locations(authority.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def client(authority: Authority, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.root))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if name is not None:
        context.load_cert_chain(authority.certificate(name), authority.key(name))
    return context


def shake_hands(ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str = "localhost") -> None:
    """Raises ssl.SSLError as soon as one end refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        theirs.wrap_bio(to_client, to_server, server_hostname=name),
        ours.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[1].write(b"hello")
    assert ends[0].read() == b"hello"


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_root_accepts_the_broker(authority, name):
    shake_hands(server(authority), client(authority), name)


def test_a_name_that_is_not_the_brokers_is_refused(authority):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(server(authority), client(authority), "elsewhere.example")


def test_another_root_is_not_trusted(authority, tmp_path):
    other = Authority(tmp_path / "other")
    other.init(NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server(authority), client(other))


def test_a_certificate_ends_after_90_days(tmp_path):
    old = Authority(tmp_path / "ca")
    long_ago = NOW - timedelta(days=91)
    old.init(long_ago)
    old.issue("broker", long_ago, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(server(old), client(old))
    old.issue("broker", long_ago + timedelta(days=2), NAMES)
    shake_hands(server(old), client(old))


def test_clients_certificates_are_checked_and_can_be_revoked(authority):
    authority.issue("homesync-17", NOW)
    authority.issue("homesync-18", NOW)
    shake_hands(server(authority, asks_clients=True), client(authority, "homesync-17"))
    with pytest.raises(ssl.SSLError):
        shake_hands(server(authority, asks_clients=True), client(authority))

    (revoked,) = authority.revoke("homesync-17", NOW)
    assert revoked.revoked_at is not None
    with pytest.raises(ssl.SSLError, match="revoked"):
        shake_hands(server(authority, asks_clients=True), client(authority, "homesync-17"))
    shake_hands(server(authority, asks_clients=True), client(authority, "homesync-18"))

    authority.issue("homesync-17", NOW)
    shake_hands(server(authority, asks_clients=True), client(authority, "homesync-17"))


def test_a_clients_certificate_is_no_servers(authority):
    authority.issue("homesync-17", NOW)
    posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    posing.load_cert_chain(authority.certificate("homesync-17"), authority.key("homesync-17"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(posing, client(authority))


def test_issuing_does_not_need_the_roots_key(authority):
    (authority.folder / "root.key").unlink()
    authority.issue("homesync-17", NOW)
    authority.revoke("homesync-17", NOW)
    authority.refresh_crl(NOW)


def test_keys_are_p256_and_for_the_owners_eyes_only(authority):
    for path in authority.folder.rglob("*"):
        if path.is_file() and path.name != "lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    leaf = x509.load_pem_x509_certificates(authority.certificate("broker").read_bytes())[0]
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_the_brokers_certificate_is_renewed_a_month_before_its_end(authority):
    assert not authority.wants_renewal("broker", NAMES, NOW + timedelta(days=59))
    assert authority.wants_renewal("broker", NAMES, NOW + timedelta(days=61))
    assert authority.wants_renewal("broker", (*NAMES, "mqtt.example.org"), NOW)
    assert authority.wants_renewal("other", NAMES, NOW)
    authority.revoke("broker", NOW)
    assert authority.wants_renewal("broker", NAMES, NOW)


def test_an_authority_is_made_once(authority):
    root = authority.root.read_bytes()
    assert not authority.init(NOW)
    assert authority.root.read_bytes() == root


def test_what_cannot_be_done_is_told(authority, tmp_path):
    for name in ("", "../root", "A", "a b", "-x", "a" * 65):
        with pytest.raises(StackError, match="cannot be a certificate's name"):
            authority.issue(name, NOW)
    with pytest.raises(StackError, match="no valid certificate"):
        authority.revoke("nobody", NOW)
    with pytest.raises(StackError, match="ca init"):
        Authority(tmp_path / "nowhere").issue("broker", NOW, NAMES)
    with pytest.raises(StackError, match="issuing CA ends"):
        authority.issue("late", NOW + timedelta(days=1800))
