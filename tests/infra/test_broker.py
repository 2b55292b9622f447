"""The broker's listeners: who gets in, what survives a kill, and who stays outside."""

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from infra.cli import accounts, ca, device_group
from infra.local import Stack, StackError, StackSettings, broker, start
from infra.local.broker import accounts_connection, authority_of, service_accounts
from infra.local.programs import OWN, SERVERS
from sinks import provisioning
from sinks.broker_control import BrokerAway, BrokerControl
from sinks.dynamic_security import ADMIN, remove
from sinks.migrate import migrate
from sinks.registry import DeviceRow, resolve_device
from tests.infra.broker_clients import NOT_AUTHORIZED, Connection, connected, is_refused, wait_for
from tests.infra.command_line import CommandLine

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

UPLINK = next(program for program in OWN if program.name == "uplink")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A broker and a database of these tests' own."""
    servers = [program for program in SERVERS if program.name != "kafka"]
    with start(StackSettings.free(tmp_path_factory.mktemp("stack")), servers) as running:
        migrate(running.database_url)
        yield running


@pytest.fixture
def conn(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.database_url) as connection:
        yield connection


@pytest.fixture
def control(stack: Stack) -> BrokerControl:
    return BrokerControl(accounts_connection(stack.settings))


def account_of(made: provisioning.Provisioned) -> dict[str, str]:
    return {"user": made.user_name, "password": made.token, "client_id": made.user_name}


def kill_broker(stack: Stack) -> None:
    killed = stack.server_pid("mosquitto")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: running_broker(stack) not in (None, killed), "the broker is started again")
    stack.wait_ready("mosquitto")


def running_broker(stack: Stack) -> int | None:
    try:
        return stack.server_pid("mosquitto")
    except StackError:
        return None


def row_of(conn: psycopg.Connection, made: provisioning.Provisioned) -> DeviceRow:
    return resolve_device(conn, str(made.device_id))


# ---- the plain listener stays what it was ----


def test_a_session_of_the_plain_listener_loses_nothing_while_it_is_away(stack):
    """With `per_listener_settings` it did."""
    topic = "homesync/h/nodes/n/telemetry/main"
    watcher = Connection(stack, tls=False, client_id="like-an-uplink", session_s=3600)
    assert watcher.subscribe("homesync/+/nodes/+/telemetry/+") == [1]
    watcher.cut()
    with connected(stack, tls=False) as node:
        assert node.publish(topic, b"before") == 0
    stack.restart("mosquitto")
    with connected(stack, tls=False) as node:
        assert node.publish(topic, b"after a restart") == 0
    stack.restart("mosquitto")  # saves, so that the kill below takes nothing of that
    kill_broker(stack)
    with connected(stack, tls=False) as node:
        assert node.publish(topic, b"after a kill") == 0
    with connected(stack, tls=False, client_id="like-an-uplink", session_s=3600) as again:
        assert again.session_present
        wait_for(lambda: len(again.received) >= 3, "what was queued")
        assert [payload for _, payload in again.received] == [
            b"before", b"after a restart", b"after a kill",
        ]  # fmt: skip


def test_the_plain_listener_has_no_control_of_accounts(stack, control):
    before = control.accounts()
    with connected(stack, tls=False) as anyone:
        anyone.subscribe("$CONTROL/#")
        command = b'{"commands": [{"command": "createClient", "username": "x", "password": "x"}]}'
        assert anyone.publish("$CONTROL/dynamic-security/v1", command) == NOT_AUTHORIZED
        assert control.accounts() == before
        assert anyone.subscribe("$SYS/broker/version", "$share/group/a/b", "#") == [1, 1, 1]
        wait_for(lambda: anyone.received, "the broker's version")
        assert [topic for topic, _ in anyone.received] == ["$SYS/broker/version"]


# ---- TLS ----


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_older_tls_is_refused_and_newer_taken(stack):
    for newest, welcome in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.create_default_context(cafile=str(authority_of(stack.settings).root))
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        address = ("127.0.0.1", stack.settings.mqtt_tls_port)
        with socket.create_connection(address, timeout=60) as plain:
            if welcome:
                with context.wrap_socket(plain, server_hostname="localhost") as tls:
                    assert tls.version() == "TLSv1.2"
            else:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(plain, server_hostname="localhost")


def test_nobody_gets_into_the_tls_listener_without_an_account(stack, conn, control):
    made = provisioning.provision(conn, control, node_id="in", name="in", home_id="h")
    good = account_of(made)
    wrong = [
        {},
        {"client_id": made.user_name},
        good | {"password": "wrong"},
        good | {"password": ""},
        good | {"password": None},
        good | {"user": "nobody"},
        good | {"user": ADMIN},
        good | {"user": made.user_name.upper()},
    ]
    for account in wrong:
        assert is_refused(stack, **account), account
    for account in wrong[2:]:  # on the plain port it is all or nothing too
        assert is_refused(stack, tls=False, **account), account
    with connected(stack, **good, tls=False) as accepted:
        assert accepted.accepted
        assert accepted.subscribe("#") == [NOT_AUTHORIZED]
    with connected(stack, **good) as accepted:
        assert accepted.accepted


# ---- accounts outlive the broker ----


def test_accounts_survive_a_kill_and_revoked_ones_stay_out(stack, conn, control):
    kept = provisioning.provision(conn, control, node_id="kept", name="kept", home_id="h")
    gone = provisioning.provision(conn, control, node_id="gone", name="gone", home_id="h")
    provisioning.revoke(conn, control, row_of(conn, gone))
    kill_broker(stack)
    with connected(stack, **account_of(kept)) as device:
        assert device.accepted
        assert device.publish("homesync/h/nodes/kept/telemetry/main") in (0, 16)
    with connected(stack, **account_of(gone)) as device:
        assert device.code == NOT_AUTHORIZED


def test_a_broker_that_lost_its_accounts_has_them_again_after_up(stack, conn, control):
    made = provisioning.provision(conn, control, node_id="lost", name="lost", home_id="h")
    stack.stop_process("mosquitto")
    (stack.settings.state_dir / "mosquitto" / "dynamic-security.json").unlink()
    stack.down()
    stack.up()
    with connected(stack, **account_of(made)) as device:
        assert device.accepted


def test_drift_is_found_and_mended(stack, conn, control):
    services = service_accounts()
    made = {
        name: provisioning.provision(conn, control, node_id=name, name=name, home_id="drift")
        for name in ("extra", "missing", "changed", "same")
    }
    assert not provisioning.look_for_drift(conn, control, services)

    conn.execute("DELETE FROM mqtt_account WHERE device_id = %s", [made["extra"].device_id])
    conn.commit()
    control.run(remove(made["missing"].user_name))
    changed = made["changed"].user_name
    all_topics = {"acltype": "subscribePattern", "topic": "#", "allow": True}
    control.run(
        [
            {"command": "addRoleACL", "rolename": changed, **all_topics},
            {"command": "createRole", "rolename": "foreign", "acls": [all_topics]},
            {"command": "addClientRole", "username": changed, "rolename": "foreign"},
            {"command": "setClientId", "username": changed, "clientid": "another"},
            {"command": "disableClient", "username": changed},
        ]
    )

    found = provisioning.reconcile(conn, control, services)
    assert found.extra == [made["extra"].user_name]
    assert found.missing == [made["missing"].user_name]
    assert found.changed == [changed]
    left = provisioning.look_for_drift(conn, control, services)
    assert (left.extra, left.missing, left.changed) == ([], [made["missing"].user_name], [])

    stack.restart_broker()
    assert not provisioning.look_for_drift(conn, control, services)
    for name, accepted in (("extra", False), ("missing", True), ("changed", True), ("same", True)):
        with connected(stack, **account_of(made[name])) as device:
            assert device.accepted == accepted, name
    with connected(stack, **account_of(made["changed"])) as device:
        assert device.subscribe("#") == [NOT_AUTHORIZED]


def test_without_the_broker_nothing_changes(stack, conn, control):
    made = provisioning.provision(conn, control, node_id="still", name="still", home_id="h")
    before = conn.execute("SELECT * FROM mqtt_account ORDER BY device_id").fetchall()
    devices = conn.execute("SELECT * FROM device ORDER BY device_id").fetchall()
    conn.commit()
    device = row_of(conn, made)
    stack.stop_process("mosquitto")
    try:
        with pytest.raises(BrokerAway), conn.transaction():
            provisioning.provision(conn, control, node_id="new", name="new", home_id="h")
        with pytest.raises(BrokerAway), conn.transaction():
            provisioning.rotate_token(conn, control, device)
        with pytest.raises(BrokerAway), conn.transaction():
            provisioning.revoke(conn, control, device)
    finally:
        stack.start_process("mosquitto")
    assert conn.execute("SELECT * FROM mqtt_account ORDER BY device_id").fetchall() == before
    assert conn.execute("SELECT * FROM device ORDER BY device_id").fetchall() == devices
    with connected(stack, **account_of(made)) as device_again:
        assert device_again.accepted


# ---- commands ----


@pytest.fixture
def run(stack: Stack) -> CommandLine:
    own = {
        StackSettings.variable(field): str(value)
        for field, value in stack.settings.model_dump().items()
    }
    return CommandLine(stack.database_url, device_group, accounts, ca, environment=own)


def test_a_device_is_provisioned_renewed_and_revoked_by_command(stack, run):
    first = run("device", "provision", "by-hand", "--home", "h", "--name", "By hand", "--json")
    config = first["mqttConfig"]
    account = {"user": config["user"], "client_id": config["clientId"]}
    assert not is_refused(stack, **account, password=config["token"])
    second = run("device", "provision", "by-hand", "--home", "h", "--rotate", "--json")
    token = second["mqttConfig"]["token"]
    assert is_refused(stack, **account, password=config["token"])
    assert not is_refused(stack, **account, password=token)

    run("device", "revoke", "By hand")
    assert is_refused(stack, **account, password=token)
    (row,) = [one for one in run("device", "accounts", "--json") if one["name"] == "By hand"]
    assert (row["user"], row["state"]) == (config["user"], "revoked")
    assert "has no account" in run("device", "revoke", "By hand", code=1)
    assert "give 1 to 64" in run("device", "provision", "a+b", "--home", "h", code=1)


def test_reconciling_by_command_ends_with_what_is_left(stack, run, control):
    made = run("device", "provision", "left", "--home", "h", "--json")["mqttConfig"]
    agree = {"found": {"extra": [], "missing": [], "changed": []}}
    agree["left"] = agree["found"]
    assert run("accounts", "reconcile", "--dry-run", "--json") == agree

    control.run(remove(made["user"]))
    run("accounts", "reconcile", "--dry-run", code=1)
    run("accounts", "reconcile", code=1)
    mended = run("accounts", "reconcile", "--restart", "--json")
    assert (mended["found"]["missing"], mended["left"]["missing"]) == ([made["user"]], [])
    assert not is_refused(
        stack, user=made["user"], client_id=made["clientId"], password=made["token"]
    )


def test_certificates_are_issued_listed_and_revoked_by_command(run):
    assert "there already" in run("ca", "init")
    issued = run("ca", "issue", "homesync-99", "--json")
    for file in ("certificate", "key"):
        assert Path(issued[file]).is_file()
    run("ca", "issue", "homesync-99")
    revoked = run("ca", "revoke", issued["serial"], "--json")
    assert [one["serial"] for one in revoked] == [issued["serial"]]
    states = [
        one["revoked_at"] is not None
        for one in run("ca", "list", "--json")
        if one["name"] == "homesync-99"
    ]
    assert states == [True, False]
    assert "is good" in run("ca", "renew")


# ---- a broker that trusts nobody ----


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every listener wants an account, and the TLS one a certificate too."""
    settings = StackSettings.free(tmp_path_factory.mktemp("strict")).model_copy(
        update={"mqtt_anonymous": False, "mqtt_require_certificate": True}
    )
    with start(settings, (*SERVERS, UPLINK)) as running:
        yield running


@pytest.fixture(scope="module")
def strict_device(strict: Stack) -> dict[str, object]:
    """How a provisioned device connects there."""
    authority = authority_of(strict.settings)
    control = BrokerControl(accounts_connection(strict.settings))
    with psycopg.connect(strict.database_url) as conn:
        made = provisioning.provision(conn, control, node_id="n1", name="n1", home_id="h1")
    authority.issue(made.user_name, datetime.now(UTC))
    return account_of(made) | {"files": files_of(strict, made.user_name)}


def files_of(stack: Stack, name: str) -> tuple[str, str]:
    authority = authority_of(stack.settings)
    return str(authority.certificate(name)), str(authority.key(name))


def test_the_strict_broker_wants_account_and_certificate(strict, strict_device):
    with connected(strict, tls=False) as nobody:
        assert nobody.code == NOT_AUTHORIZED
    for missing in ("files", "password"):
        assert is_refused(strict, **strict_device | {missing: None})
    assert not is_refused(strict, **strict_device)
    plain = {key: value for key, value in strict_device.items() if key != "files"}
    with connected(strict, **plain, tls=False) as known:
        assert known.accepted


def test_the_uplink_has_the_rights_it_needs_and_no_more(strict, strict_device):
    """A reading goes all the way to Kafka, and its acknowledgement back to the node."""
    envelope = json.dumps(
        {"v": 1, "boot": "b1", "seq": 1, "first": 1, "ts": time.time(),
         "channels": {"main": {"power_w": 5.0}}}
    )  # fmt: skip
    with connected(strict, **strict_device) as node:
        assert node.subscribe("homesync/h1/nodes/n1/ack") == [1]

        def acknowledged() -> bool:
            node.publish("homesync/h1/nodes/n1/telemetry/main", envelope.encode())
            time.sleep(0.5)
            return bool(node.received)

        wait_for(acknowledged, "the uplink acknowledges")
        topic, payload = node.received[0]
        assert topic == "homesync/h1/nodes/n1/ack"
        assert (json.loads(payload)["boot"], json.loads(payload)["seq"]) == ("b1", 1)
    service = {"user": broker.SERVICES["uplink"], "client_id": "an-uplink", "tls": False}
    service["password"] = broker.password_file(strict.settings, service["user"]).read_text()
    with connected(strict, **service) as uplink:
        assert (
            uplink.subscribe("#", "$SYS/#", "homesync/+/nodes/+/command/#") == [NOT_AUTHORIZED] * 3
        )
        for topic in ("homesync/h1/nodes/n1/command/relay", "h1/rpc", "devices/a/commands"):
            assert uplink.publish(topic) == NOT_AUTHORIZED
    service |= {"user": broker.SERVICES["downlink"], "client_id": "a-downlink"}
    service["password"] = broker.password_file(strict.settings, service["user"]).read_text()
    with connected(strict, **service) as downlink:
        assert downlink.subscribe("#", "homesync/+/nodes/+/telemetry/+") == [NOT_AUTHORIZED] * 2
        for topic in ("homesync/h1/nodes/n1/telemetry/main", "homesync/h1/nodes/n1/ack"):
            assert downlink.publish(topic) == NOT_AUTHORIZED
        for topic in ("homesync/h1/nodes/n1/command/relay", "a/b/rpc", "cmnd/t/POWER"):
            assert downlink.publish(topic) in (0, 16)
    service |= {"user": broker.SERVICES["poller"], "client_id": "a-poller"}
    service["password"] = broker.password_file(strict.settings, service["user"]).read_text()
    with connected(strict, **service) as poller:
        assert poller.subscribe("#", "homesync/+/nodes/+/telemetry/+") == [NOT_AUTHORIZED] * 2
        assert poller.subscribe("meterstream/+/rpc", "m/events/rpc", "m/status/+") == [1] * 3
        for topic in ("homesync/h1/nodes/n1/command/relay", "m/status/em:0", "m/command/switch:0"):
            assert poller.publish(topic) == NOT_AUTHORIZED
        assert poller.publish("a/b/rpc") in (0, 16)


def test_a_revoked_certificate_is_refused_after_a_reload(strict, strict_device):
    with connected(strict, **strict_device) as device:
        assert device.accepted
        authority_of(strict.settings).revoke(str(strict_device["user"]), datetime.now(UTC))
        broker.write_certificates(strict.settings)
        broker.reload(strict.server_pid("mosquitto"))

        # Let in, it would end the connection of the same client id.
        wait_for(lambda: is_refused(strict, **strict_device), "the certificate is refused")
