"""The node's TLS on the unix port: it talks to the broker that its CA signed, and to no other."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from node_process import NodeProcess

from infra.local.parts import locate
from infra.local.settings import StackSettings

DAY = timedelta(days=1)


class Authority:
    """A CA, and the certificates that it makes."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self._certificate = self._signed(self._name, self._key, x509.BasicConstraints(True, None))
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )

    def server_context(self, host: str, folder: Path) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        alternative = x509.SubjectAlternativeName([x509.DNSName(host)])
        certificate = self._signed(name, key, alternative)
        path = folder / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Broker:
    """Accepts TLS and answers CONNECT. `logins` counts who got so far as to say who they are."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.2)
        self.port = int(self._server.getsockname()[1])
        self.logins = 0
        self.tries = 0
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        open_: list[ssl.SSLSocket] = []
        while not self._closing:
            try:
                plain, _ = self._server.accept()
            except TimeoutError:
                continue
            self.tries += 1
            plain.settimeout(20)
            try:
                line = self._context.wrap_socket(plain, server_side=True)
                if line.recv(1024)[:1] == b"\x10":
                    self.logins += 1
                    line.sendall(b"\x20\x02\x00\x00\x90\x04\x00\x01\x01\x01")
                    open_.append(line)
            except OSError:
                plain.close()
        for line in open_:
            line.close()

    def close(self) -> None:
        self._closing = True
        self._thread.join(30)
        self._server.close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


def node_of(folder: Path, frozen: Path, port: int, ca_pem: str) -> NodeProcess:
    mqtt = {"host": "localhost", "port": port, "tls": True, "ca_pem": ca_pem}
    account = {"home": "h", "node": "n", "mqtt": mqtt}
    parts = locate(StackSettings().parts_dir)
    return NodeProcess(parts, folder / "flash", account, {"ntp_host": ""}, {}, frozen)


@contextmanager
def running(node: NodeProcess, event: str) -> Iterator[None]:
    """From the node's first word of `event` on."""
    node.start()
    try:
        node.wait_for(lambda: node.events(event), event)
        yield
    finally:
        node.kill()


def test_the_broker_of_its_own_ca_is_talked_to(tmp_path: Path, frozen: Path, authority: Authority):
    broker = Broker(authority.server_context("localhost", tmp_path))
    with running(node_of(tmp_path, frozen, broker.port, authority.pem), "mqtt_up"):
        assert broker.logins == 1
    broker.close()


@pytest.mark.parametrize("what", ["another CA", "another name"])
def test_anybody_else_hears_nothing(tmp_path: Path, frozen: Path, authority: Authority, what: str):
    host = "elsewhere" if what == "another name" else "localhost"
    broker = Broker(authority.server_context(host, tmp_path))
    trusted = Authority() if what == "another CA" else authority
    node = node_of(tmp_path, frozen, broker.port, trusted.pem)
    with running(node, "mqtt_down"):
        node.wait_for(lambda: broker.tries >= 2, "tried again")
        assert node.events("mqtt_up") == []
        assert broker.logins == 0
        assert node.running
    broker.close()
