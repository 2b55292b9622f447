"""Records, sensors, configurations and models in the real database."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from schemas.device import CONFIG_REPORT
from schemas.models import Model
from sinks import device_registry
from sinks.device_configs import BadConfig, Difference, configuration, set_desired, versions
from sinks.device_details import BadDetail, change_device, details
from sinks.device_sensors import (
    BadSensor,
    Sensor,
    UnknownSensor,
    list_sensors,
    remove_sensor,
    set_sensor,
)
from sinks.models import BadModel, UnknownModel, remove_model, set_model
from sinks.presence import models
from sinks.registry import NameTaken, UnknownDevice, UnknownZone, claim_device

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
T0_US = 1_800_000_000_000_000


@pytest.fixture
def device_id(db: Connection) -> int:
    return claim_device(db, "shelly:em", "Main", "h1", "Asia/Bangkok")


def says(db: Connection, device_id: int, **fields: object) -> None:
    rows = [(device_id, "", name, value, T0_US, 1) for name, value in fields.items()]
    device_registry.keep_fields(db, rows)


# ---------------------------------------------------------------- the record


def test_a_persons_word_goes_before_the_devices(db: Connection, device_id: int):
    says(db, device_id, model="SPEM-003CEBEU", ip="192.0.2.1", mac="AABB", rssi_dbm=-61.0)
    found = details(db, device_id)
    assert (found.model, found.model_set, found.ip, found.mac) == (
        "SPEM-003CEBEU", None, "192.0.2.1", "AABB",
    )  # fmt: skip
    assert (found.rssi_dbm, found.contract.late_after_s) == (-61, 60)

    changes = {"model": "SHEM-3", "ip": "2001:DB8::7", "mac": "3c61.0512.3456", "location": "Hall"}
    found = change_device(db, device_id, changes)
    assert (found.model, found.ip, found.mac, found.location) == (
        "SHEM-3", "2001:db8::7", "3C:61:05:12:34:56", "Hall",
    )  # fmt: skip
    found = change_device(db, device_id, dict.fromkeys(changes))
    assert (found.model, found.ip, found.location) == ("SPEM-003CEBEU", "192.0.2.1", None)
    assert found.name == "Main"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ip": "192.0.2.256"}, BadDetail),
        ({"mac": "3C:61:05:12:34"}, BadDetail),
        ({"name": ""}, BadDetail),
        ({"name": "x\x00"}, BadDetail),
        ({"location": "x" * 201}, BadDetail),
        ({"gap_limit_s": 0}, BadDetail),
        ({"max_power_w": True}, BadDetail),
        ({"home_id": "h2"}, BadDetail),
        ({"zone": None}, BadDetail),
        ({"zone": "Asia/Bankok"}, UnknownZone),
        ({"location": "Cellar", "name": "Taken"}, NameTaken),
    ],
)
def test_what_a_device_cannot_be_changes_nothing(
    db: Connection, device_id: int, changes: dict[str, object], error: type[Exception]
):
    claim_device(db, "shelly:other", "Taken", "h1", "Asia/Bangkok")
    before = details(db, device_id)
    with pytest.raises(error):
        change_device(db, device_id, changes)
    assert details(db, device_id) == before
    with pytest.raises(UnknownDevice):
        change_device(db, 999, {})


def test_another_zone_marks_all_days(db: Connection, device_id: int):
    row = db.execute(
        "INSERT INTO channel (device_id, name) VALUES (%s, 'total') RETURNING channel_id",
        [device_id],
    ).fetchone()
    assert row is not None
    db.execute(
        "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
        "quality, why, complete, revision) VALUES (%s, '2026-02-01Z', 1, 0, 1, 0, 0, true, 1)",
        row,
    )
    change_device(db, device_id, {"name": "Meter"})
    assert db.execute("SELECT count(*) FROM rollup_dirty").fetchone() == (0,)
    change_device(db, device_id, {"zone": "Europe/Berlin"})
    assert db.execute("SELECT count(*) FROM rollup_dirty").fetchone() == (1,)


# ---------------------------------------------------------------- sensors


def test_sensors_are_set_replaced_and_removed(db: Connection, device_id: int):
    pzem = Sensor("l1", "PZEM-004T", "0x01", None, {"power_w": 1.02})
    clamp = Sensor("l1", "CT-clamp", "GPIO34", Decimal("2000.5"), {})
    set_sensor(db, device_id, pzem)
    set_sensor(db, device_id, clamp)
    assert list_sensors(db, device_id) == [clamp, pzem]
    changed = Sensor("l1", "PZEM-004T", "0x02", None, {})
    set_sensor(db, device_id, changed)
    remove_sensor(db, device_id, "l1", "CT-clamp")
    assert list_sensors(db, device_id) == [changed]
    with pytest.raises(UnknownSensor):
        remove_sensor(db, device_id, "l1", "CT-clamp")


@pytest.mark.parametrize(
    "sensor",
    [
        Sensor("", "PZEM-004T", None, None, {}),
        Sensor("l1", "x\n", None, None, {}),
        Sensor("l1", "CT", None, Decimal(0), {}),
        Sensor("l1", "CT", None, Decimal(-5), {}),
        Sensor("l1", "CT", None, None, {"power_w": 0.0}),
        Sensor("l1", "CT", None, None, {"power_w": float("nan")}),
        Sensor("l1", "CT", None, None, {"power_w": float("inf")}),
    ],
)
def test_sensors_that_cannot_be_are_refused(db: Connection, device_id: int, sensor: Sensor):
    with pytest.raises(BadSensor):
        set_sensor(db, device_id, sensor)
    assert list_sensors(db, device_id) == []


# ---------------------------------------------------------------- configuration


def reports(db: Connection, device_id: int, offset: int, **attributes: object) -> None:
    """As the worker stores what a device says of its configuration."""
    at_us = T0_US + offset
    device_registry.keep_events(
        db, [(3, offset, 0, device_id, None, CONFIG_REPORT, at_us, attributes)]
    )


def test_versions_count_changes_and_reports_show_the_drift(db: Connection, device_id: int):
    first = set_desired(db, device_id, {"interval_s": 10, "relay": {"restore": True}}, "operator")
    assert (first.version, first.set_by) == (1, "operator")
    again = set_desired(db, device_id, {"relay": {"restore": True}, "interval_s": 10}, "u2")
    assert again == first
    assert configuration(db, device_id).differences == (
        Difference("interval_s", 10, None),
        Difference("relay.restore", True, None),
    )
    reports(db, device_id, 1, **{"interval_s": 10, "relay.restore": False, "config_version": 1})
    found = configuration(db, device_id)
    assert found.differences == (Difference("relay.restore", True, False),)
    assert (found.reported_version, found.in_step) == (1, False)
    assert details(db, device_id).reported_version == 1
    reports(db, device_id, 2, **{"relay.restore": True})
    assert configuration(db, device_id).in_step
    set_desired(db, device_id, {"interval_s": 30}, "operator")
    assert [one.version for one in versions(db, device_id, 10)] == [2, 1]
    found = configuration(db, device_id)
    assert found.differences == (Difference("interval_s", 30, 10),)
    assert found.reported == {"interval_s": 10, "relay.restore": True}
    assert (found.reported_version, details(db, device_id).desired_version) == (1, 2)


@pytest.mark.parametrize("version", ["seven", -1, 1.5, 10**12, True, None, 2**70])
def test_a_strange_version_of_a_device_harms_nobody(
    db: Connection, device_id: int, version: object
):
    reports(db, device_id, 1, interval_s=10, config_version=version)
    found = configuration(db, device_id)
    assert (found.reported, found.reported_version) == ({"interval_s": 10}, None)


def test_an_answered_command_says_how_the_device_is_set_up(db: Connection, device_id: int):
    set_desired(db, device_id, {"interval_s": 30}, "operator")
    db.execute("SET session_replication_role = replica")  # the rules of commands are not ours
    for number, (state, seconds) in enumerate([("done", 30), ("failed", 60)], 1):
        db.execute(
            "INSERT INTO command (command_id, device_id, command_seq, kind, asked, parameters, "
            "issued_by, issued_at, expires_at, queued, state, ended_at) VALUES "
            "(gen_random_uuid(), %s, %s, 'config', 'config', %s, 'user:u', now(), "
            "now() + interval '1 minute', false, %s, %s)",
            [device_id, number, Jsonb({"interval_s": seconds}), state, datetime.now(UTC)],
        )
    db.execute("RESET session_replication_role")
    assert configuration(db, device_id).in_step


@pytest.mark.parametrize(
    "config",
    [
        {"x": "y" * 20_000},
        {"a": {"b": {"c": {"d": {"e": 1}}}}},
        {"": 1},
        {"bad\x00name": 1},
        {"name": "bad\x00value"},
        {"x": float("nan")},
        {"x": [float("inf")]},
    ],
)
def test_settings_that_cannot_be_are_refused(
    db: Connection, device_id: int, config: dict[str, object]
):
    with pytest.raises(BadConfig):
        set_desired(db, device_id, config, "operator")
    assert versions(db, device_id, 1) == []


# ---------------------------------------------------------------- models


def test_a_model_that_was_set_goes_before_the_shipped_one(db: Connection):
    shipped = models(db)["SPEM-003CEBEU"]
    own = Model("SPEM-003CEBEU", "shelly", 5, 20, 100, 30, ("power",))
    set_model(db, own)
    set_model(db, Model("family:z2m", "z2m", 60, 120, 180))
    assert list(models(db)["SPEM-003CEBEU"].capabilities) == ["power"]
    assert models(db)["SPEM-003CEBEU"].late_after_s == 20
    device_id = claim_device(db, "z2m:plug", "Plug", "h1", "Asia/Bangkok")
    assert details(db, device_id).contract.late_after_s == 120
    remove_model(db, "SPEM-003CEBEU")
    assert models(db)["SPEM-003CEBEU"] == shipped
    with pytest.raises(UnknownModel):
        remove_model(db, "SPEM-003CEBEU")


@pytest.mark.parametrize(
    "model",
    [
        Model("x", "toaster", 10, 60, 300),
        Model("", "shelly", 10, 60, 300),
        Model("x", "shelly", 10, 9, 300),
        Model("x", "shelly", 10, 60, 60),
        Model("x", "shelly", 0, 60, 300),
        Model("x", "shelly", 10, 60, 10**9),
        Model("x", "shelly", 10, 60, 300, 10**9),
        Model("x", "shelly", 10, 60, 300, None, ("flies",)),
    ],
)
def test_contracts_that_cannot_be_are_refused(db: Connection, model: Model):
    with pytest.raises(BadModel):
        set_model(db, model)
    assert db.execute("SELECT count(*) FROM model").fetchone() == (0,)
