"""`meterstream prices`, and a bill by a tariff of one's own that follows them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.cli import bill, homes, prices
from infra.local import Stack
from sinks.registry import claim_device
from streams.tariffs.loading import known_tariffs
from tests.databases import migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack

FEBRUARY = datetime(2026, 1, 31, 23, tzinfo=UTC)  # midnight in Berlin
QUARTERS = 28 * 96
TARIFF = """
[tariffs.dynamic]
title = "Follows the market"
currency = "EUR"
zone = "Europe/Berlin"

[[tariffs.dynamic.rates]]
from = "2026-01"
spot = "DE"
taxes = [{ rate = 0.19 }]
"""


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "prices_tests")


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Any]:
    """The command line with a folder of own tariffs, which are read anew each time."""
    own = tmp_path / "tariffs"
    own.mkdir()
    (own / "dynamic.toml").write_text(TARIFF)
    environment = {"METERSTREAM_TARIFFS_DIR": str(own)}
    line = CommandLine(database_url, homes, bill, prices, environment=environment)

    def one(*arguments: str, code: int = 0) -> Any:
        known_tariffs.cache_clear()
        return line(*arguments, code=code)

    yield one
    known_tariffs.cache_clear()


def a_month(folder: Path, price: str) -> str:
    rows = [
        f"{(FEBRUARY + n * timedelta(minutes=15)).isoformat()},{price}" for n in range(QUARTERS)
    ]
    path = folder / "february.csv"
    path.write_text("\n".join(["starts_at,price", *rows]))
    return str(path)


def test_prices_are_imported_shown_corrected_and_billed(
    database_url: str, run: Any, tmp_path: Path
):
    given = ("--currency", "EUR", "--zone", "Europe/Berlin")
    file = a_month(tmp_path, "100")
    told = run("prices", "import", "DE", file, *given, "--per", "mwh", "--json")
    assert told == {
        "market": "DE",
        "from": "2026-01-31T23:00:00+00:00",
        "to": "2026-02-28T23:00:00+00:00",
        "quarter_hours": QUARTERS,
        "new": QUARTERS,
        "corrected": 0,
    }
    shown = ("prices", "show", "DE", "--from", "2026-02-01", "--zone", "Europe/Berlin", "--json")
    rows = run(*shown)
    assert len(rows) == 2 * 96
    assert rows[0] == {
        "starts_at": "2026-02-01T00:00:00+01:00",
        "price": "0.1",
        "currency": "EUR",
        "minutes": 15,
        "revision": 1,
    }

    with psycopg.connect(database_url, autocommit=True) as conn:
        device_id = claim_device(conn, "homesync:h1/main", "Main", "h1", "Europe/Berlin")
        conn.execute(
            "WITH c AS (INSERT INTO channel (device_id, name) VALUES (%s, 'total') "
            "RETURNING channel_id) INSERT INTO usage_15m (channel_id, window_start, energy_uwh, "
            "export_uwh, readings, quality, why, complete, revision) "
            "SELECT channel_id, at, 1000000000, 0, 15, 0, 0, true, 1 "
            "FROM c, generate_series(%s::timestamptz, %s, interval '15 minutes') AS at",
            [device_id, FEBRUARY, FEBRUARY + timedelta(hours=1, minutes=-1)],
        )
    run("home", "set", "h1", "--zone", "Europe/Berlin")
    run("meter", "set", "h1", "Main", "--role", "grid", "--from", "2026-01-01")
    run("contract", "set", "h1", "--tariff", "dynamic", "--from", "2026-01-01")
    made = run("bill", "h1", "--month", "2026-02", "--json")
    assert made["lines"][0] == {
        "kind": "energy", "name": "spot", "quantity": "4", "unit": "kWh", "amount": "0.40",
    }  # fmt: skip
    assert Decimal(made["total"]) == Decimal("0.48")
    assert "no price for 2026-01-31T22" not in run(
        "compare", "h1", "--from", "2026-02-01", "--to", "2026-02-02", "--tariffs", "dynamic"
    )

    file = a_month(tmp_path, "-0.2")
    assert run("prices", "import", "DE", file, *given, "--json")["corrected"] == QUARTERS
    assert run("bill", "h1", "--month", "2026-02", "--json")["total"] == "-0.95"


def test_what_cannot_be_imported_ends_in_one_line(run: Any, tmp_path: Path):
    given = ("--currency", "EUR", "--zone", "Europe/Berlin")
    assert "cannot be read" in run("prices", "import", "DE", "nowhere.csv", *given, code=65)
    short = tmp_path / "short.json"
    short.write_text('{"2026-03-29": [1, 2, 3]}')
    told = run("prices", "import", "DE", str(short), *given, code=65)
    assert "2026-03-29 has 92 slots of 15 minutes in Europe/Berlin, 3 prices were given" in told
    assert "is no time zone" in run(
        "prices", "import", "DE", str(short), "--currency", "EUR", "--zone", "Berlin", code=2
    )
