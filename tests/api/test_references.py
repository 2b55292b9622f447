"""Spot prices and emission factors over the API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

PRICES = "/api/v1/spot-prices/DE"
FACTORS = "/api/v1/emission-factors"
SPRING = datetime(2026, 3, 28, 23, tzinfo=UTC)  # midnight in Berlin; the clock goes forward


async def ask(
    client: httpx.AsyncClient, method: str, path: str, status: int = 200, **more: Any
) -> Any:
    answer = await client.request(method, path, **more)
    assert answer.status_code == status, answer.text
    return answer.json()


def a_day(slots: int, price: str = "0.1", **more: Any) -> dict[str, Any]:
    prices = [
        {"starts_at": (SPRING + n * timedelta(minutes=15)).isoformat(), "price": price}
        for n in range(slots)
    ]
    return {"currency": "EUR", "zone": "Europe/Berlin", "prices": prices, **more}


async def test_a_days_prices_are_entered_corrected_and_listed(client: httpx.AsyncClient):
    assert await ask(client, "PUT", PRICES, json=a_day(92)) == {"new": 92, "corrected": 0}
    again = await ask(client, "PUT", PRICES, json=a_day(92, "-25", per="mwh"))
    assert again == {"new": 0, "corrected": 92}
    listed = await ask(
        client, "GET", PRICES, params={"from": "2026-03-28T23:00Z", "to": "2026-03-28T23:30Z"}
    )
    assert listed["market"] == "DE"
    assert listed["items"][0] == {
        "starts_at": "2026-03-28T23:00:00Z",
        "price": "-0.025",
        "currency": "EUR",
        "minutes": 15,
        "revision": 2,
    }
    assert len(listed["items"]) == 2


async def test_prices_that_do_not_fit_their_day_are_refused(client: httpx.AsyncClient):
    gap = await ask(client, "PUT", PRICES, 422, json=a_day(91))
    assert "92 slots of 15 minutes in Europe/Berlin, 91 prices" in gap["detail"]
    zone = await ask(client, "PUT", PRICES, 422, json=a_day(92, zone="Berlin"))
    assert "zone" in zone["detail"]
    await ask(client, "PUT", PRICES, json=a_day(92))
    other = await ask(client, "PUT", PRICES, 422, json=a_day(92, currency="SEK"))
    assert "are in EUR, these in SEK" in other["detail"]
    long = {"from": "2026-01-01T00:00Z", "to": "2026-06-01T00:00Z"}
    assert "93 days" in (await ask(client, "GET", PRICES, 422, params=long))["detail"]


async def test_emission_factors_are_entered_corrected_and_listed(client: httpx.AsyncClient):
    factor = {"region": "XX", "month": "2026-02", "g_per_kwh": "410.5", "source": "ministry"}
    assert await ask(client, "PUT", FACTORS, json=factor) == factor
    corrected = factor | {"g_per_kwh": "400"}
    await ask(client, "PUT", FACTORS, json=corrected)
    other = {"region": "YY", "month": "2026-02", "g_per_kwh": "50", "source": "ministry"}
    await ask(client, "PUT", FACTORS, json=other)
    assert await ask(client, "GET", FACTORS) == {"items": [corrected, other]}
    assert await ask(client, "GET", FACTORS, params={"region": "YY"}) == {"items": [other]}
    bad = await ask(client, "PUT", FACTORS, 422, json=factor | {"month": "soon"})
    assert "month" in bad["detail"]
    await ask(client, "PUT", FACTORS, 422, json=factor | {"g_per_kwh": "-1"})
