"""What homes are billed and judged by, beside their contracts: spot prices, emission factors."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict

from api import reference_models as models
from api.database import Reading, Writing
from api.instants import Instant, span_of
from api.problems import Problem, invalid
from sinks import emissions, spot_prices
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from streams.tariffs.spot import BadPrices
from streams.tariffs.spot_files import Slot, by_quarter_hour

router = APIRouter(prefix="/api/v1", tags=["bills"])
MOST_DAYS = 93
Market = Annotated[str, Path(max_length=100, examples=["SE3"])]


class PriceQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_: Instant | None = models.FROM
    to: Instant | None = models.TO


@router.get(
    "/spot-prices/{market}", operation_id="listSpotPrices", summary="List a market's spot prices"
)
def list_spot_prices(
    market: Market, query: Annotated[PriceQuery, Query()], conn: Reading
) -> models.SpotPrices:
    """A price a quarter hour, as far as they are known; at most 93 days."""
    span = span_of(query.from_, query.to, timedelta(days=1), datetime.now(UTC))
    if span.end - span.start > timedelta(days=MOST_DAYS):
        raise invalid("from", "the range has more than 93 days", "shorten it")
    rows = spot_prices.price_rows(conn, market, *span)
    return models.SpotPrices(
        market=market, items=[models.SpotPrice.model_validate(row._asdict()) for row in rows]
    )


@router.put(
    "/spot-prices/{market}", operation_id="setSpotPrices", summary="Enter a market's spot prices"
)
def set_spot_prices(
    market: Market, body: models.SetSpotPrices, conn: Writing
) -> models.KeptSpotPrices:
    """Of whole civil days, or correct them; bills and costs that follow them are made anew."""
    try:
        zone = ZoneInfo(body.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise invalid("zone", "is no time zone", "name one like Europe/Stockholm") from error
    slots = [Slot(one.starts_at, one.price) for one in body.prices]
    try:
        found = by_quarter_hour(slots, minutes=body.minutes, zone=zone, per=body.per)
        kept = spot_prices.keep_prices(
            conn, known_tariffs(), market, body.currency, body.minutes, found
        )
    except BadPrices as error:
        raise Problem(422, "invalid-request", str(error)) from error
    return models.KeptSpotPrices(new=kept.new, corrected=kept.corrected)


@router.get(
    "/emission-factors", operation_id="listEmissionFactors", summary="List emission factors"
)
def list_emission_factors(
    conn: Reading, region: Annotated[str | None, Query(max_length=200)] = None
) -> models.EmissionFactors:
    """Of the grid, by region and month: what a home's carbon footprint is worked out from."""
    found = emissions.list_factors(conn, None if region is None else region.replace("\0", ""))
    return models.EmissionFactors(items=[_factor(one) for one in found])


@router.put(
    "/emission-factors", operation_id="setEmissionFactor", summary="Enter an emission factor"
)
def set_emission_factor(body: models.EmissionFactor, conn: Writing) -> models.EmissionFactor:
    """Of a region's month; the same month again corrects it."""
    try:
        month = Month.parse(body.month)
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise invalid("month", problem, remedy) from error
    factor = emissions.RegionFactor(body.region, month, Decimal(body.g_per_kwh), body.source)
    emissions.set_factor(conn, factor)
    return _factor(factor)


def _factor(one: emissions.RegionFactor) -> models.EmissionFactor:
    return models.EmissionFactor(
        region=one.region, month=str(one.month), g_per_kwh=one.g_per_kwh, source=one.source
    )
