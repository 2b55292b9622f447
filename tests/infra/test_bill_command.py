"""`meterstream bill` and `meterstream compare`, in a real database."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pypdfium2
import pytest

from infra.cli import bill, utility_bill
from infra.local import Stack
from infra.tracing.bill_line import trace_line
from sinks.bill_drafts import draft
from sinks.bills import NoBill, issue
from sinks.contracts import set_contract, set_home
from sinks.home_meters import set_meter
from sinks.registry import claim_device, resolve_device
from streams.tariffs.contract import Contract
from streams.tariffs.errors import BadUsage
from streams.tariffs.loading import catalogue_of, known_tariffs
from streams.tariffs.month import Month
from tests.databases import emptied, migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack

FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
MARCH = datetime(2026, 2, 28, 17, tzinfo=UTC)


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "bill_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The home h1 with its meter `Main`, 0.125 kWh a quarter hour in February; a plug `Fridge`."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        emptied(connection, "home", "device", "usage_15m", "bill")
        for name, uwh in (("Main", 125_000_000), ("Fridge", 25_000_000)):
            address = f"homesync:h1/{name.lower()}"
            device_id = claim_device(connection, address, name, "h1", "Asia/Bangkok")
            connection.execute(
                "WITH c AS (INSERT INTO channel (device_id, name) VALUES (%s, 'total') "
                "RETURNING channel_id) INSERT INTO usage_15m (channel_id, window_start, "
                "energy_uwh, export_uwh, readings, quality, why, complete, revision) "
                "SELECT channel_id, at, %s, 0, 15, 0, 0, true, 1 "
                "FROM c, generate_series(%s::timestamptz, %s, interval '15 minutes') AS at",
                [device_id, uwh, FEBRUARY, MARCH - timedelta(minutes=15)],
            )
        set_home(connection, "h1", name="บ้านสวน")
        contract = Contract("mea-1.2", date(2026, 1, 1), 1, Decimal(15))
        set_contract(connection, "h1", contract, known_tariffs())
        main = resolve_device(connection, "Main")
        set_meter(connection, "h1", main, None, "grid", valid_from=FEBRUARY)
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection[Any]) -> Any:
    return CommandLine(database_url, bill, utility_bill)


FEB = ("--month", "2026-02")


def test_a_home_is_billed_by_its_id_and_by_its_meter(run: Any, conn: psycopg.Connection[Any]):
    made = run("bill", "h1", *FEB, "--json")
    assert made["issue"]["status"] == "draft"
    assert (made["tariff"], made["energy_kwh"]) == ("mea-1.2", "336")
    assert run("bill", "Main", *FEB, "--json") == made
    with conn.transaction():
        issue(conn, "h1", draft(conn, known_tariffs(), "h1", Month(2026, 2)))
    issued = run("bill", "h1", *FEB, "--json")
    assert (issued["issue"]["version"], issued["total"]) == (1, made["total"])
    now = issued["issue"]["issued_at"]
    assert run("bill", "h1", *FEB, "--as-of", now, "--json") == issued
    assert "had no bill" in run("bill", "h1", *FEB, "--as-of", "2026-01-01", "--json", code=65)
    assert "version 1" in run("bill", "h1", *FEB)


def test_a_plug_is_billed_by_the_tariff_that_is_given(run: Any):
    assert "give --tariff" in run("bill", "Fridge", *FEB, "--json", code=65)
    made = run("bill", "Fridge", *FEB, "--tariff", "mea-1.2", "--json")
    #  28 days of 96 quarter hours of 0.025 kWh
    assert (made["energy_kwh"], made["contract"]) == ("67.2", None)
    assert "no tariff is called" in run("bill", "Fridge", *FEB, "--tariff", "x", code=65)
    assert "nor is a home" in run("bill", "Nobody", *FEB, code=1)


def test_a_line_leads_to_the_quarter_hours_that_it_counts(conn: psycopg.Connection[Any]):
    set_contract(
        conn, "h1", Contract("mea-1.3.2", date(2026, 1, 1), 1, Decimal(15)), known_tariffs()
    )
    with conn.transaction():
        made = issue(conn, "h1", draft(conn, known_tariffs(), "h1", Month(2026, 2)))
    assert made is not None
    names = [line["name"] for line in made.document["lines"]]

    peak = trace_line(conn, known_tariffs(), made.bill_id, names.index("on_peak") + 1)
    assert peak.agrees
    #  20 working days of February 2026, none a holiday of the tariff, from 09:00 to 22:00
    assert len(peak.quarters) == 20 * 13 * 4
    assert {(one.address, one.channel) for one in peak.quarters} == {("homesync:h1/main", "total")}
    surcharge = trace_line(conn, known_tariffs(), made.bill_id, names.index("ft") + 1)
    assert (len(surcharge.quarters), surcharge.agrees) == (2688, True)

    at = peak.quarters[7].start
    assert peak.chosen(at + timedelta(minutes=14)) == [peak.quarters[7]]
    with pytest.raises(BadUsage, match="counts no energy at"):
        peak.chosen(FEBRUARY)
    conn.execute("UPDATE usage_15m SET energy_uwh = 0 WHERE window_start = %s", [at])
    assert not trace_line(conn, known_tariffs(), made.bill_id, names.index("on_peak") + 1).agrees

    with pytest.raises(BadUsage, match="is no energy"):
        trace_line(conn, known_tariffs(), made.bill_id, names.index("vat") + 1)
    with pytest.raises(NoBill, match="has lines 1 to 5, not 9"):
        trace_line(conn, known_tariffs(), made.bill_id, 9)


HOURLY = {
    "title": "Test",
    "currency": "THB",
    "zone": "Asia/Bangkok",
    "rates": [
        {
            "from": "2026-01",
            "energy": {"periods": {"all": [{"price": "1"}]}},
            "demand": [{"measuring_minutes": 60, "periods": {"all": [{"price": "10"}]}}],
        }
    ],
}


def test_a_demand_of_an_hour_leads_to_its_four_quarter_hours(conn: psycopg.Connection[Any]):
    #  0.125 kWh a quarter hour, but 0.5 in each of 05:00 to 06:00 and 1.2 in one at 08:00:
    #  the greatest hour is 4 x 0.5 = 2 kW, not 1.2 + 3 x 0.125
    catalogue = catalogue_of([{"tariffs": {"hourly": HOURLY}}])
    set_contract(conn, "h1", Contract("hourly", date(2026, 1, 1)), catalogue)
    hour = FEBRUARY + timedelta(days=3, hours=5)
    for start, end, uwh in (
        (hour, hour + timedelta(hours=1), 500_000_000),
        (hour + timedelta(hours=3), hour + timedelta(hours=3, minutes=15), 1_200_000_000),
    ):
        conn.execute(
            "UPDATE usage_15m SET energy_uwh = %s WHERE window_start >= %s AND window_start < %s",
            [uwh, start, end],
        )
    with conn.transaction():
        made = issue(conn, "h1", draft(conn, catalogue, "h1", Month(2026, 2)))
    assert made is not None
    kinds = [line["kind"] for line in made.document["lines"]]
    traced = trace_line(conn, catalogue, made.bill_id, kinds.index("demand") + 1)
    assert traced.line["quantity"] == "2"
    assert traced.agrees
    assert [one.start for one in traced.quarters] == [
        hour + number * timedelta(minutes=15) for number in range(4)
    ]


def halves(schedule: str) -> dict[str, Any]:
    """The prices of a schedule whose periods are called as those of another one."""
    return {
        "schedule": schedule,
        "periods": {"the late": [{"price": "2"}], "early": [{"price": "1"}]},
    }


def windows(edge: str) -> dict[str, Any]:
    late = {"period": "the late", "from": edge}
    return {"windows": [{"period": "early", "to": edge}, late]}


TWO_CLOCKS: dict[str, Any] = {
    "schedules": {"noon": windows("12:00"), "six": windows("06:00")},
    "tariffs": {
        "clocks": {
            "title": "Test",
            "currency": "THB",
            "zone": "Asia/Bangkok",
            "rates": [
                {
                    "from": "2026-01",
                    "energy": halves("noon"),
                    "demand": [halves("six")],
                }
            ],
        }
    },
}


def test_periods_of_one_name_and_two_schedules_are_told_apart(conn: psycopg.Connection[Any]):
    #  0.125 kWh a quarter hour; 0.5 at 08:00, which is early for energy and late for demand
    catalogue = catalogue_of([TWO_CLOCKS])
    set_contract(conn, "h1", Contract("clocks", date(2026, 1, 1)), catalogue)
    at = FEBRUARY + timedelta(days=3, hours=8)
    conn.execute("UPDATE usage_15m SET energy_uwh = 500000000 WHERE window_start = %s", [at])
    with conn.transaction():
        made = issue(conn, "h1", draft(conn, catalogue, "h1", Month(2026, 2)))
    assert made is not None
    told = {}
    for number, line in enumerate(made.document["lines"], 1):
        traced = trace_line(conn, catalogue, made.bill_id, number)
        told[line["name"]] = (line["quantity"], len(traced.quarters), traced.agrees)
    assert told == {
        "the late": ("168", 28 * 48, True),
        "early": ("168.375", 28 * 48, True),
        "demand the late": ("2", 1, True),
        "demand early": ("0.5", 1, True),
    }


def test_csv_and_pdf_say_the_same_as_json(run: Any, tmp_path: Path):
    made = run("bill", "h1", *FEB, "--json")
    lines = list(csv.DictReader(io.StringIO(run("bill", "h1", *FEB, "--csv"))))
    assert lines[-1]["amount"] == made["total"]
    file = tmp_path / "bill.pdf"
    run("bill", "h1", *FEB, "--pdf", str(file), "--lang", "th")
    page = pypdfium2.PdfDocument(file.read_bytes())[0].get_textpage().get_text_bounded()
    assert f"{Decimal(made['total']):,}" in page
    assert "รอบบิล" in page
    assert "homesync:h1/main total" in page
    nowhere = tmp_path / "none" / "bill.pdf"
    assert "cannot be written" in run("bill", "h1", *FEB, "--pdf", str(nowhere), code=2)


@pytest.mark.parametrize("subject", ["h1", "Fridge"])
def test_tariffs_are_compared_cheapest_first(run: Any, subject: str):
    span = ("--from", "2026-02-01", "--to", "2026-03-01")
    rows = run("compare", subject, *span, "--tariffs", "mea-1.3.2,mea-1.2", "--json")
    totals = [Decimal(row["total"]) for row in rows]
    assert totals == sorted(totals)
    own = next(row for row in rows if row["tariff"] == "mea-1.2")
    assert own["total"] == run("bill", subject, *FEB, "--tariff", "mea-1.2", "--json")["total"]
    assert all(row["reason"] for row in rows)
    assert "mea-1.1" in run("compare", subject, *span)


def test_the_utilitys_bill_is_entered_and_stands_beside_ours(run: Any):
    ours = run("bill", "h1", *FEB, "--json")
    nothing = run("utility-bill", "h1", *FEB, code=65)
    assert "nobody has entered the utility's bill of 2026-02; give its lines" in nothing
    total = Decimal(ours["total"]) + 20
    entered = ("energy_kwh=341", f"service={ours['service']}", f"total={total}")
    made = run("utility-bill", "h1", *FEB, *entered, "--json")
    assert made["status"] == "draft"
    assert {row["line"]: row["difference"] for row in made["lines"]} == {
        "energy_kwh": "5",
        "service": "0.00",
        "total": "20.00",
    }
    assert "the utility counted 5 kWh more" in made["reason"]
    assert run("utility-bill", "h1", *FEB, "--json") == made
    assert "the utility counted 5 kWh more" in run("utility-bill", "h1", *FEB)
    for wrong, said in (("energy=1", "has no total"), ("tax=1", "'tax' is no line of a bill")):
        assert said in run("utility-bill", "h1", *FEB, wrong, code=65)
    assert run("utility-bill", "h1", *FEB, "--json") == made, "what is refused replaces nothing"
    assert "write LINE=X" in run("utility-bill", "h1", *FEB, "total", code=2)
    assert "h2" in run("utility-bill", "h2", *FEB, code=65)


def test_a_comparison_that_cannot_be_made_says_why(run: Any):
    empty = ("--from", "2026-02-02", "--to", "2026-02-01")
    assert "before" in run("compare", "Fridge", *empty, code=65)
    early = ("--from", "2019-02-01", "--to", "2019-03-01", "--tariffs", "mea-1.2")
    assert "the rates of 2019-02 are not known" in run("compare", "Fridge", *early, code=65)
