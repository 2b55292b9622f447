"""A day that comes 45 days late, from the node to the second version of a bill, and back."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest

from schemas.units import DAY_US, MINUTE_US, SECOND_US
from sinks.bill_drafts import draft
from sinks.contracts import set_contract, set_home
from sinks.home_meters import set_meter
from sinks.registry import resolve_device
from streams.billing.job import Billing, BillingSettings
from streams.tariffs.contract import Contract
from streams.tariffs.errors import NotKnown
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from tests.system.conftest import Node, Pipeline, Publisher

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

BANGKOK = ZoneInfo("Asia/Bangkok")
TARIFF = "mea-1.2"


def say_two_hours(node: Node, start_us: int, first_wh: int) -> list[bytes]:
    """A register that counts 100 Wh every 5 minutes: 2.4 kWh."""
    return [
        node.say(start_us + number * 5 * MINUTE_US, import_total_wh=first_wh + 100.0 * number)
        for number in range(25)
    ]


def test_a_day_45_days_late_makes_the_second_version_and_its_line_leads_to_the_bytes(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    late_day = (datetime.now(BANGKOK) - timedelta(days=45)).date()
    month = Month(late_day.year, late_day.month)
    try:
        known_tariffs().rates(TARIFF, month)
    except NotKnown as error:
        pytest.skip(f"tariff data: {error}")
    noon = datetime(late_day.year, late_day.month, late_day.day, 12, tzinfo=BANGKOK)
    late_us = int(noon.timestamp()) * SECOND_US
    day_before = late_day.day > 20  # the day that comes in time
    in_time_us = late_us - DAY_US if day_before else late_us + DAY_US

    node = Node(publisher, home)
    say_two_hours(node, in_time_us, 10_000 if day_before else 12_400)
    node.safe()
    pipeline.final(node.address)
    billing = Billing(
        known_tariffs(), "test", BillingSettings.model_validate({"billing_quiet_s": 0})
    )
    with psycopg.connect(pipeline.stack.database_url, autocommit=True) as conn:
        set_home(conn, home)
        first_day = late_day.replace(day=1)
        set_contract(conn, home, Contract(TARIFF, first_day, 1, Decimal(15)), known_tariffs())
        start = datetime(first_day.year, first_day.month, 1, tzinfo=BANGKOK)
        device = resolve_device(conn, node.address)
        set_meter(conn, home, device, "total", "grid", valid_from=start - timedelta(days=1))

        def bill_now() -> list[tuple[str, int]]:
            issued = billing.work_off(conn, datetime.now(UTC))
            return [(str(bill.document["month"]), bill.version) for bill in issued]

        assert (str(month), 1) in bill_now()
        shown = ("bill", home, "--month", str(month))
        first = pipeline.meterstream(*shown)
        assert (first["energy_kwh"], first["issue"]["version"]) == ("2.4", 1)

        payloads = say_two_hours(node, late_us, 12_400 if day_before else 10_000)
        node.safe()
        pipeline.final(node.address)
        assert (str(month), 2) in bill_now()
        second = pipeline.meterstream(*shown)
        assert second["energy_kwh"] == "4.8"
        assert second["issue"]["sha256"] == draft(conn, known_tariffs(), home, month).sha256
        difference = Decimal(second["total"]) - Decimal(first["total"])
        assert Decimal(second["issue"]["adjustment"]["difference"]) == difference > 0
        assert pipeline.meterstream(*shown, "--version", "1") == first

    at = (noon + timedelta(minutes=20)).isoformat()
    number = second["issue"]["bill"]
    traced = pipeline.meterstream("trace", "--bill", number, "--line", 1, "--at", at)
    assert (traced["version"], traced["agrees"]) == (2, True)
    assert sum(Decimal(one["energy_kwh"]) for one in traced["quarters"]) == Decimal("4.8")
    (bucket,) = traced["traces"]
    assert bucket["adds_up"] is True
    found = {b64decode(one["record"]["payload_base64"]) for one in bucket["readings"]}
    assert found <= set(payloads)
    assert len(found) >= 3
