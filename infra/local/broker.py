"""What Mosquitto is given before it starts: listeners, certificates, accounts.

The plugin of accounts stands for all listeners. By default who gives no user name on the plain port
may do anything there (this machine's users are trusted); the TLS port wants an account. With
`METERSTREAM_MQTT_ANONYMOUS=false` both want one.

Not `per_listener_settings`: with it Mosquitto 2.0.12 and later drops what comes for a session that
is away (eclipse-mosquitto/mosquitto#2618).
"""

import json
import os
import secrets
import signal
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from infra.local.authority import Authority
from infra.local.errors import StackError
from infra.local.parts import Parts
from infra.local.settings import StackSettings
from ingest.mqtt_account import MqttAccount
from schemas.connections import AccountsConnection
from schemas.mqtt_rights import Rights, command_topics, every_device
from sinks.dynamic_security import ADMIN, Account, Hash, document, hash_password

BROKER = "broker"  # its certificate
_PLUGIN = "mosquitto_dynamic_security.so"

SERVICES = {
    "uplink": "meterstream-uplink",
    "downlink": "meterstream-downlink",
    "poller": "meterstream-poller",
    "simulator": "meterstream-simulator",
    "switches": "meterstream-simulator",
}
"""The user names of our own processes, by program."""


def service_accounts() -> list[Account]:
    """What our own processes may do; none is bound to a client id, for there may be several."""
    from ingest.broker_link import DROPPED_COUNTER
    from ingest.decoders.topic_table import SUBSCRIPTIONS
    from ingest.poller.ear import LISTENED, QUESTIONS

    rights = {
        "uplink": Rights(("homesync/+/nodes/+/ack",), (*SUBSCRIPTIONS, DROPPED_COUNTER)),
        "downlink": Rights(command_topics(), ()),
        "poller": Rights(QUESTIONS, LISTENED),
        "simulator": every_device(),
    }
    return [Account(SERVICES[program], None, those) for program, those in rights.items()]


def player_account(settings: StackSettings) -> MqttAccount:
    """Who plays devices: METERSTREAM_MQTT_USER, else where the broker wants accounts the simulator.

    Raises ValidationError where a password cannot be read.
    """
    account = MqttAccount()
    if account.user is not None or settings.mqtt_anonymous:
        return account
    user = SERVICES["simulator"]
    return MqttAccount(user=user, password_file=password_file(settings, user))


def prepare(settings: StackSettings, parts: Parts) -> None:
    """Write all files of the broker; of accounts only those of services, where there are none."""
    folder = folder_of(settings)
    (folder / "conf.d").mkdir(exist_ok=True)
    (folder / "conf.d" / "listener.conf").write_text(_listeners(settings, parts))
    for user in (ADMIN, *SERVICES.values()):
        secret = password_file(settings, user)
        if not secret.exists():
            _write_private(secret, secrets.token_urlsafe(32).encode())
    write_certificates(settings)
    if not (folder / "dynamic-security.json").exists():
        _write_accounts(settings, [])


def write_accounts(settings: StackSettings, database_url: str) -> int:
    """Write the broker's accounts as the database has them. Returns how many devices have one.

    While the broker runs it must be stopped before: it writes this file too.
    """
    from sinks.accounts import active_accounts

    with psycopg.connect(database_url, connect_timeout=5) as conn:
        devices = active_accounts(conn)
    _write_accounts(settings, devices)
    return len(devices)


def write_certificates(settings: StackSettings) -> bool:
    """Make the authority if there is none, renew the broker's certificate and its administrator's
    if it is time, and lay the broker's and a new CRL where it reads them.

    Returns whether the broker's is a new one.
    """
    now = datetime.now(UTC)
    authority = authority_of(settings)
    authority.init(now)
    names = tuple(dict.fromkeys(("localhost", "127.0.0.1", settings.mqtt_device_host)))
    renewed = authority.wants_renewal(BROKER, names, now)
    if renewed:
        authority.issue(BROKER, now, names)
    if authority.wants_renewal(ADMIN, (), now):
        authority.issue(ADMIN, now)
    authority.refresh_crl(now)
    tls = folder_of(settings) / "tls"
    tls.mkdir(exist_ok=True, mode=0o700)
    for name, source in {
        "broker.pem": authority.certificate(BROKER),
        "broker.key": authority.key(BROKER),
        "ca.pem": authority.chain,
        "crl.pem": authority.crl,
    }.items():
        _write_private(tls / name, source.read_bytes())
    return renewed


def reload(server_pid: int) -> None:
    """Let the running broker read its certificate and CRL anew; connections stay."""
    os.kill(server_pid, signal.SIGHUP)


def authority_of(settings: StackSettings) -> Authority:
    return Authority(settings.state_dir.absolute() / "ca")


def accounts_connection(settings: StackSettings) -> AccountsConnection:
    authority = authority_of(settings)
    return AccountsConnection(
        port=settings.mqtt_tls_port,
        device_host=settings.mqtt_device_host,
        ca_file=authority.root,
        certificate_file=authority.certificate(ADMIN),
        key_file=authority.key(ADMIN),
        admin_password_file=password_file(settings, ADMIN),
    )


def password_file(settings: StackSettings, user_name: str) -> Path:
    return settings.state_dir.absolute() / f"{user_name}.password"


def environment(settings: StackSettings, program: str) -> dict[str, str]:
    """What a process of ours needs beside the stack's addresses: the API the administrator's
    account, others their own, where the broker asks for one.
    """
    if program == "api":
        administrator = accounts_connection(settings).model_dump().items()
        return {f"METERSTREAM_ACCOUNTS_{key.upper()}": str(value) for key, value in administrator}
    user = SERVICES.get(program)
    if settings.mqtt_anonymous or user is None:
        return {}
    return {
        "METERSTREAM_MQTT_USER": user,
        "METERSTREAM_MQTT_PASSWORD_FILE": str(password_file(settings, user)),
    }


def _listeners(settings: StackSettings, parts: Parts) -> str:
    lines = [
        f"allow_anonymous {str(settings.mqtt_anonymous).lower()}",
        f"plugin {_plugin(parts)}",
        "plugin_opt_config_file /srv/dynamic-security.json",
        "persistence_location /srv/",
        f"listener {settings.mqtt_port} 127.0.0.1",
        f"listener {settings.mqtt_tls_port} 127.0.0.1",
        "certfile /srv/tls/broker.pem",
        "keyfile /srv/tls/broker.key",
        "tls_version tlsv1.2",  # or newer
    ]
    if settings.mqtt_anonymous:
        lines.append("use_username_as_clientid true")  # refuses who gives none
    if settings.mqtt_require_certificate:
        lines += ["cafile /srv/tls/ca.pem", "crlfile /srv/tls/crl.pem", "require_certificate true"]
    return "\n".join(["# Written by `meterstream up`.", *lines]) + "\n"


def _plugin(parts: Parts) -> str:
    """Its path in the root file system."""
    for path in (parts.rootfs / "usr" / "lib").glob(f"*/{_PLUGIN}"):
        return f"/{path.relative_to(parts.rootfs)}"
    raise StackError(f"{parts.rootfs} has no {_PLUGIN}; it comes with Debian's mosquitto")


def _write_accounts(settings: StackSettings, devices: list[tuple[Account, Hash]]) -> None:
    services = [
        (service, hash_password(password_file(settings, service.user_name).read_text()))
        for service in service_accounts()
    ]
    admin = hash_password(password_file(settings, ADMIN).read_text())
    whole = json.dumps(document([*services, *devices], admin, anonymous=settings.mqtt_anonymous))
    _write_private(folder_of(settings) / "dynamic-security.json", whole.encode())


def folder_of(settings: StackSettings) -> Path:
    return settings.state_dir.absolute() / "mosquitto"


def _write_private(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)
