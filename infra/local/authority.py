"""The certificate authority of an installation: root, issuing CA, certificates for 90 days, a CRL.

root.key signs the issuing CA and nothing else: move it away (`meterstream ca init` says so), it is
not needed until the issuing CA runs out. All files lie in one folder of the owner's:

    root.pem root.key issuing.pem issuing.key   P-256
    chain.pem    root and issuing: what clients' certificates are checked against
    crl.pem      signed by the issuing CA
    issued/      <name>.pem (with the issuing CA's behind it) and <name>.key
    index.json   every certificate that was issued
"""

import fcntl
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.local.errors import StackError

ROOT_DAYS, ISSUING_DAYS, DAYS, CRL_DAYS = 3650, 1825, 90, 30
RENEW_DAYS = 30  # before its end
_SKEW = timedelta(minutes=5)
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate in the index; instants are RFC 3339 in UTC."""

    name: str
    serial: str
    server_names: tuple[str, ...]
    not_after: str
    revoked_at: str | None = None

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and now < datetime.fromisoformat(self.not_after)


class Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def root(self) -> Path:
        """What devices and clients trust."""
        return self.folder / "root.pem"

    @property
    def chain(self) -> Path:
        return self.folder / "chain.pem"

    @property
    def crl(self) -> Path:
        return self.folder / "crl.pem"

    def certificate(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / "issued" / f"{name}.key"

    def init(self, now: datetime) -> bool:
        """Make root and issuing CA. False if they are there already."""
        with self._locked():
            if self.root.exists():
                return False
            root_key, issuing_key = _new_key(), _new_key()
            root = _authority_certificate("root", root_key, None, now, ROOT_DAYS)
            issuing = _authority_certificate(
                "issuing CA", issuing_key, (root, root_key), now, ISSUING_DAYS
            )
            _write_key(self.folder / "root.key", root_key)
            _write_key(self.folder / "issuing.key", issuing_key)
            _write(self.folder / "issuing.pem", _pem(issuing))
            _write(self.chain, _pem(issuing) + _pem(root))
            self._write_crl([], now)
            _write(self.root, _pem(root))  # last: with it the authority is whole
            return True

    def issue(self, name: str, now: datetime, server_names: Sequence[str] = ()) -> Issued:
        """A certificate with this common name: a client's, or with `server_names` a server's.

        One of the same name that is valid stays so; its files are replaced. Raises StackError.
        """
        if not _NAME.fullmatch(name):
            raise StackError(f"{name!r:.80} cannot be a certificate's name: give a-z, 0-9, - and .")
        with self._locked():
            issuing, issuing_key = self._issuing()
            key = _new_key()
            ends = now + timedelta(days=DAYS)
            if ends > issuing.not_valid_after_utc:
                raise StackError(f"the issuing CA ends before {ends:%F}; make a new authority")
            certificate = (
                _builder(name, key, issuing, now, DAYS)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_usage(signs_certificates=False), critical=True)
                .add_extension(x509.ExtendedKeyUsage([_purpose(server_names)]), critical=False)
            )
            if server_names:
                alternatives = x509.SubjectAlternativeName([_general(one) for one in server_names])
                certificate = certificate.add_extension(alternatives, critical=False)
            signed = certificate.sign(issuing_key, hashes.SHA256())
            self.certificate(name).parent.mkdir(exist_ok=True, mode=0o700)
            _write_key(self.key(name), key)
            _write(self.certificate(name), _pem(signed) + _pem(issuing))
            issued = Issued(name, f"{signed.serial_number:x}", tuple(server_names), _text(ends))
            self._write_index([*self.issued(), issued])
            return issued

    def issued(self) -> list[Issued]:
        """All that was ever issued, oldest first."""
        try:
            rows = json.loads((self.folder / "index.json").read_text())
        except FileNotFoundError:
            return []
        return [Issued(**row | {"server_names": tuple(row["server_names"])}) for row in rows]

    def revoke(self, what: str, now: datetime) -> list[Issued]:
        """Revoke every valid certificate of this name or serial, and write the CRL.

        Raises StackError if there is none.
        """
        with self._locked():
            every = self.issued()
            hit = [one for one in every if what in (one.name, one.serial) and one.valid(now)]
            if not hit:
                raise StackError(f"no valid certificate has the name or serial {what!r:.80}")
            revoked = [replace(one, revoked_at=_text(now)) for one in hit]
            kept = [revoked[hit.index(one)] if one in hit else one for one in every]
            self._write_crl(kept, now)
            self._write_index(kept)
            return revoked

    def refresh_crl(self, now: datetime) -> None:
        """Write the CRL anew: it has an end too."""
        with self._locked():
            self._write_crl(self.issued(), now)

    def wants_renewal(self, name: str, server_names: Sequence[str], now: datetime) -> bool:
        """Whether the newest certificate of this name is missing, revoked, for other server names,
        or within RENEW_DAYS of its end.
        """
        newest = next((one for one in reversed(self.issued()) if one.name == name), None)
        return (
            newest is None
            or not self.certificate(name).exists()
            or newest.server_names != tuple(server_names)
            or not newest.valid(now + timedelta(days=RENEW_DAYS))
        )

    # ---- inside ----

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _issuing(self) -> tuple[x509.Certificate, PrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate((self.folder / "issuing.pem").read_bytes())
            key = serialization.load_pem_private_key(
                (self.folder / "issuing.key").read_bytes(), None
            )
        except FileNotFoundError as error:
            raise StackError(
                f"{error.filename} is missing; `meterstream ca init` makes an authority"
            ) from error
        assert isinstance(key, PrivateKey)
        return certificate, key

    def _write_crl(self, issued: Sequence[Issued], now: datetime) -> None:
        issuing, key = self._issuing()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuing.subject)
            .last_update(now - _SKEW)
            .next_update(now + timedelta(days=CRL_DAYS))
            .add_extension(_issuer_of(issuing), critical=False)
            .add_extension(x509.CRLNumber(round(now.timestamp() * 1000)), critical=False)
        )
        for one in issued:
            if one.revoked_at is not None:
                builder = builder.add_revoked_certificate(
                    x509.RevokedCertificateBuilder()
                    .serial_number(int(one.serial, 16))
                    .revocation_date(datetime.fromisoformat(one.revoked_at))
                    .build()
                )
        signed = builder.sign(key, hashes.SHA256())
        _write(self.crl, signed.public_bytes(serialization.Encoding.PEM))

    def _write_index(self, issued: Sequence[Issued]) -> None:
        rows = json.dumps([asdict(one) for one in issued], indent=1)
        _write(self.folder / "index.json", rows.encode())


# ---------------------------------------------------------------- certificates


def _authority_certificate(
    what: str,
    key: PrivateKey,
    signer: tuple[x509.Certificate, PrivateKey] | None,
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Self-signed without a signer, which may then sign one more level."""
    depth = 1 if signer is None else 0
    return (
        _builder(f"Meterstream {what}", key, signer and signer[0], now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(signer[1] if signer else key, hashes.SHA256())
    )


def _builder(
    name: str, key: PrivateKey, issuer: x509.Certificate | None, now: datetime, days: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(own, critical=False)
    )
    if issuer is None:
        by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    else:
        by = _issuer_of(issuer)
    return builder.add_extension(by, critical=False)


def _issuer_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    theirs = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(theirs)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _purpose(server_names: Sequence[str]) -> x509.ObjectIdentifier:
    return ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# ---------------------------------------------------------------- files


def _new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: PrivateKey) -> None:
    _write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, for the owner's eyes only."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).replace(microsecond=0).isoformat()
