"""Bills over the API: drafts and versions, CSV and PDF, what-if, the utility's bill beside ours."""

import csv
import io
import unicodedata
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pypdfium2
import pytest

from sinks.bill_drafts import draft
from sinks.bills import issue
from streams.billing.canonical import canonical, sha256_of
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from tests.api.conftest import Rows

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

HOME = "/api/v1/homes/h1"
BILL = f"{HOME}/bills/2026-02"
FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
MARCH = datetime(2026, 2, 28, 17, tzinfo=UTC)


async def ask(client: httpx.AsyncClient, method: str, url: str, status: int, **more: Any) -> Any:
    answer = await client.request(method, url, **more)
    assert answer.status_code == status, answer.text
    return answer.json()


def without_marks(text: str) -> str:
    """What of a page's text has an order: Thai vowels and tones above and below are placed."""
    return "".join(one for one in text if one.strip() and unicodedata.category(one) != "Mn")


@pytest.fixture
async def home(client: httpx.AsyncClient, rows: Rows) -> Rows:
    """A home of 336 kWh in February 2026, 0.125 a quarter hour, on MEA 1.2."""
    channel_id = rows.channel(rows.device("homesync:h1/main", home_id="h1"), "total")
    rows.conn.execute(
        "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
        "quality, why, complete, revision) SELECT %s, at, 125000000, 0, 15, 0, 0, true, 1 "
        "FROM generate_series(%s, %s, interval '15 minutes') AS at",
        [channel_id, FEBRUARY, MARCH - timedelta(minutes=15)],
    )
    await ask(client, "PUT", HOME, 200, json={"name": "บ้านสวน"})
    contract = {"tariff_id": "mea-1.2", "valid_from": "2026-01-01", "ampere_a": "15"}
    await ask(client, "PUT", f"{HOME}/contracts", 200, json=contract)
    meter = {"device": "homesync:h1/main", "role": "grid"}
    await ask(client, "PUT", f"{HOME}/meters", 200, json=meter)
    return rows


def issue_february(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction():
        issue(conn, "h1", draft(conn, known_tariffs(), "h1", Month(2026, 2)))


async def test_a_draft_is_served_until_the_bill_is_issued(client: httpx.AsyncClient, home: Rows):
    made = await ask(client, "GET", BILL, 200)
    head = made.pop("issue")
    assert (head["status"], head["complete"]) == ("draft", True)
    assert sha256_of(canonical(made)) == head["sha256"]
    assert made["energy_kwh"] == "336"
    assert (await ask(client, "GET", f"{HOME}/bills", 200))["items"] == []

    issue_february(home.conn)
    issued = await ask(client, "GET", BILL, 200)
    assert issued.pop("issue")["status"] == "issued"
    assert issued == made
    (listed,) = (await ask(client, "GET", f"{HOME}/bills", 200))["items"]
    assert (listed["month"], listed["version"]) == ("2026-02", 1)
    assert (listed["total"], listed["sha256"]) == (made["total"], head["sha256"])


async def test_versions_stay_readable_and_one_that_is_not_there_is_404(
    client: httpx.AsyncClient, home: Rows
):
    issue_february(home.conn)
    home.conn.execute("UPDATE usage_15m SET energy_uwh = 0 WHERE window_start = %s", [FEBRUARY])
    issue_february(home.conn)
    first = await ask(client, "GET", BILL, 200, params={"version": 1})
    second = await ask(client, "GET", BILL, 200)
    assert (first["energy_kwh"], second["energy_kwh"]) == ("336", "335.875")
    difference = Decimal(second["total"]) - Decimal(first["total"])
    assert Decimal(second["issue"]["adjustment"]["difference"]) == difference < 0
    between = {"as_of": first["issue"]["issued_at"]}
    assert await ask(client, "GET", BILL, 200, params=between) == first
    lost = await ask(client, "GET", BILL, 404, params={"version": 3})
    assert "had no bill of 2026-02 with version 3" in lost["detail"]
    await ask(client, "GET", BILL, 404, params={"as_of": "2026-01-01T00:00:00Z"})


async def test_another_tariff_is_a_draft_and_has_no_versions(client: httpx.AsyncClient, home: Rows):
    tou = await ask(client, "GET", BILL, 200, params={"tariff": "mea-1.3.2"})
    assert (tou["tariff"], tou["contract"]) == ("mea-1.3.2", None)
    parts = sum(Decimal(kwh) for kwh in tou["by_period"].values())
    assert parts == Decimal(tou["energy_kwh"]) == 336
    await ask(client, "GET", BILL, 422, params={"tariff": "mea-1.3.2", "version": 1})
    unknown = await ask(client, "GET", BILL, 422, params={"tariff": "mea-9"})
    assert "no tariff is called" in unknown["detail"]


async def test_csv_has_a_row_a_line_and_adds_up(client: httpx.AsyncClient, home: Rows):
    answer = await client.get(BILL, params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert lines[-1]["kind"] == "total"
    own = [line for line in lines if line["kind"] not in ("part", "total")]
    assert sum(Decimal(line["amount"]) for line in own) == Decimal(lines[-1]["amount"])


@pytest.mark.parametrize(("lang", "title"), [("th", "ใบแจ้งค่าไฟฟ้า"), ("en", "Electricity bill")])
async def test_the_page_is_a_pdf_in_both_languages(
    client: httpx.AsyncClient, home: Rows, lang: str, title: str
):
    answer = await client.get(BILL, params={"format": "pdf", "lang": lang})
    assert answer.headers["content-type"] == "application/pdf"
    page = pypdfium2.PdfDocument(answer.content)[0].get_textpage().get_text_bounded()
    total = (await ask(client, "GET", BILL, 200))["total"]
    assert without_marks(title) in without_marks(page)
    assert f"{Decimal(total):,}" in page


async def test_tariffs_are_listed(client: httpx.AsyncClient):
    listed = (await ask(client, "GET", "/api/v1/tariffs", 200))["items"]
    assert {"mea-1.1", "mea-1.2", "pea-1.2", "mea-3.2.3"} <= {one["id"] for one in listed}
    known = {one["id"]: one["known"] for one in listed}
    assert known["mea-1.3.2"] == [{"from": "2023-05", "until": "2026-09"}]


async def test_a_tariff_says_what_a_month_costs(client: httpx.AsyncClient):
    url = "/api/v1/tariffs/mea-3.2.3"
    shown = await ask(client, "GET", url, 200, params={"month": "2026-02"})
    assert (shown["month"], shown["from"], shown["until"]) == ("2026-02", "2023-05", "2026-09")
    assert shown["energy"]["periods"]["on_peak"] == [{"price": "4.3297"}]
    (demand,) = shown["demand"]
    assert (demand["measuring_minutes"], demand["schedule"]) == (15, "thai_tou")
    assert demand["periods"]["on_peak"] == [{"price": "210.00"}]
    assert [one["price"] for one in shown["surcharges"]] == ["0.0972"]
    assert shown["schedules"]["thai_tou"]["windows"][0]["from"] == "09:00"
    assert (shown["spot"], shown["minimum"], shown["category"]) == (None, None, None)
    small = await ask(client, "GET", "/api/v1/tariffs/mea-1.1", 200)
    assert small["category"]["large"] == "mea-1.2"
    unknown = await ask(client, "GET", url, 409, params={"month": "2026-09"})
    assert "the rates of 2026-09 are not known" in unknown["detail"]
    assert "known are mea-1.1" in (await ask(client, "GET", "/api/v1/tariffs/x", 404))["detail"]
    await ask(client, "GET", url, 422, params={"month": "2026-13"})


async def test_what_if_compares_the_homes_own_energy(client: httpx.AsyncClient, home: Rows):
    asked = {"from": FEBRUARY.isoformat(), "to": MARCH.isoformat()}
    chosen = {**asked, "tariffs": ["mea-1.2", "mea-1.3.2"]}
    offers = (await ask(client, "POST", f"{HOME}/what-if", 200, json=chosen))["items"]
    totals = [Decimal(one["total"]) for one in offers]
    assert totals == sorted(totals)
    own = next(one for one in offers if one["tariff"] == "mea-1.2")
    assert own["total"] == (await ask(client, "GET", BILL, 200))["total"]
    every = (await ask(client, "POST", f"{HOME}/what-if", 200, json=asked))["items"]
    assert len(every) > 5
    assert all(one["total"] is not None for one in every)
    odd = {**asked, "from": "2026-02-01T00:01:00Z"}
    await ask(client, "POST", f"{HOME}/what-if", 422, json=odd)
    await ask(client, "POST", f"{HOME}/what-if", 422, json={**asked, "to": "2046-01-01T00:00:00Z"})


async def test_the_utilitys_bill_is_compared_line_by_line(client: httpx.AsyncClient, home: Rows):
    url = f"{BILL}/utility"
    await ask(client, "GET", url, 404)
    ours = await ask(client, "GET", BILL, 200)
    lines = {"energy_kwh": "340", "service": ours["service"], "total": ours["total"]}
    made = await ask(client, "PUT", url, 200, json={"lines": lines})
    assert made["status"] == "draft"
    assert {row["line"]: row["difference"] for row in made["lines"]} == {
        "energy_kwh": "4",
        "service": "0.00",
        "total": "0.00",
    }
    assert "the utility counted 4 kWh more" in made["reason"]
    assert await ask(client, "GET", url, 200) == made
    refused = await ask(client, "PUT", url, 422, json={"lines": {"energy": "1"}})
    assert "has no total" in refused["detail"]


async def test_a_home_that_cannot_be_billed_says_why(client: httpx.AsyncClient, rows: Rows):
    await ask(client, "GET", BILL, 404)
    await ask(client, "PUT", HOME, 200, json={})
    none = await ask(client, "GET", BILL, 409)
    assert "the home has no tariff for 2026-02" in none["detail"]
    contract = {"tariff_id": "mea-1.2", "valid_from": "2026-01-01", "ampere_a": "15"}
    await ask(client, "PUT", f"{HOME}/contracts", 200, json=contract)
    assert "no grid meter" in (await ask(client, "GET", BILL, 409))["detail"]
    await ask(client, "GET", f"{HOME}/bills/2026-13", 422)
    assert rows.conn.execute("SELECT count(*) FROM bill").fetchone() == (0,)
