"""The ledger of a home in buckets, and what its analyses tell."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import home_models as models
from api.database import Reading
from api.instants import Instant, span_of
from api.problems import invalid
from api.routes.homes import HOME_ERRORS, HomeId
from sinks import home_analyses, utility_readings
from sinks.contracts import find_home
from sinks.home_usage import csv_of, home_usage
from sinks.queries import Span
from streams.analysis.buckets import HomeBucket
from streams.analysis.document import document
from streams.tariffs.month import QUARTER

router = APIRouter(prefix="/api/v1", tags=["homes"])
MOST_DAYS = 5 * 366
MOST_QUARTERS = 93 * 96
_DEFAULT_RANGE: dict[HomeBucket, timedelta] = {
    "15m": timedelta(days=1),
    "1d": timedelta(days=31),
    "cycle": timedelta(days=366),
    "1mo": timedelta(days=366),
    "1y": timedelta(days=3 * 366),
}
_ANALYSED = timedelta(days=31)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HomeUsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bucket: HomeBucket = Field(
        default="1d",
        description="Days, months and years in the home's zone; cycles by its contracts.",
    )
    from_: Instant | None = Field(
        default=None,
        alias="from",
        description="Default: before `to` 1 d (15m), 31 d (1d), 366 d (cycle, 1mo), 3 years (1y).",
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")
    format: Literal["json", "csv"] = "json"


class AnalysisQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_: Instant | None = Field(
        default=None, alias="from", description="Default: 31 d before `to`."
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")


class PeakQuery(AnalysisQuery):
    tariff: models.Text | None = Field(
        default=None, description="Whose periods; default: those of the home's contracts."
    )


class CarbonQuery(AnalysisQuery):
    region: models.Text = Field(default=home_analyses.DEFAULT_REGION)


@router.get(
    "/homes/{home_id}/usage",
    operation_id="listHomeUsage",
    summary="List a home's usage",
    response_model=models.HomeUsagePage,
    responses=HOME_ERRORS | {200: {"content": {"text/csv": {}}}},
)
def list_home_usage(
    home_id: HomeId, query: Annotated[HomeUsageQuery, Query()], conn: Reading
) -> Response:
    """Whole buckets that touch [from, to): at most 5 years, 93 days of quarter hours.

    Each is exactly the sum of its quarter hours. `utility` has the readings of the utility's meter
    in this time, beside ours.
    """
    home = find_home(conn, home_id)
    span = _span(query.from_, query.to, _DEFAULT_RANGE[query.bucket])
    if query.bucket == "15m" and span.end - span.start > MOST_QUARTERS * QUARTER:
        raise invalid("from", "the range has more than 93 days of quarter hours", "shorten it")
    rows = home_usage(conn, home, query.bucket, *span)
    differences = utility_readings.differences(conn, home_id, rows[0].start, rows[-1].end)
    if query.format == "csv":
        name = f"usage-{query.bucket}.csv"
        return Response(
            csv_of(rows, home.zone_info, differences),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
    page = {
        "home_id": home.home_id,
        "zone": home.zone,
        "bucket": query.bucket,
        "items": rows,
        "utility": differences,
    }
    return _json(document(page))


@router.get(
    "/homes/{home_id}/demand",
    operation_id="analyseDemand",
    summary="Maximum demand and load factor",
    response_model=models.DemandAnalysis,
    responses=HOME_ERRORS,
)
def demand(home_id: HomeId, query: Annotated[AnalysisQuery, Query()], conn: Reading) -> Response:
    """The greatest mean power of a quarter hour, of the range and of each month in it."""
    return _json(home_analyses.demand_of(conn, home_id, *_analysed(query)))


@router.get(
    "/homes/{home_id}/peaks",
    operation_id="analysePeaks",
    summary="When most is used",
    response_model=models.PeakAnalysis,
    responses=HOME_ERRORS,
)
def peaks(home_id: HomeId, query: Annotated[PeakQuery, Query()], conn: Reading) -> Response:
    """Hours of the day, days of the week, and the tariff's periods."""
    return _json(home_analyses.peaks_of(conn, home_id, *_analysed(query), query.tariff))


@router.get(
    "/homes/{home_id}/circuits",
    operation_id="compareCircuits",
    summary="Circuits side by side",
    response_model=models.CircuitAnalysis,
    responses=HOME_ERRORS,
)
def circuits(home_id: HomeId, query: Annotated[AnalysisQuery, Query()], conn: Reading) -> Response:
    """Every channel of the home's devices; one that lies behind another counts in both."""
    return _json(home_analyses.circuits_of(conn, home_id, *_analysed(query)))


@router.get(
    "/homes/{home_id}/carbon",
    operation_id="analyseCarbon",
    summary="Carbon footprint",
    response_model=models.CarbonAnalysis,
    responses=HOME_ERRORS,
)
def carbon(home_id: HomeId, query: Annotated[CarbonQuery, Query()], conn: Reading) -> Response:
    """Of the energy from the grid, by the region's monthly emission factors."""
    return _json(home_analyses.carbon_of(conn, home_id, *_analysed(query), query.region))


@router.get(
    "/homes/{home_id}/solar",
    operation_id="analyseSolar",
    summary="Own production",
    response_model=models.SolarAnalysis,
    responses=HOME_ERRORS,
)
def solar(home_id: HomeId, query: Annotated[AnalysisQuery, Query()], conn: Reading) -> Response:
    """Production, self-use, self-sufficiency and export."""
    return _json(home_analyses.solar_of(conn, home_id, *_analysed(query)))


def _analysed(query: AnalysisQuery) -> Span:
    """The range in whole quarter hours."""
    span = _span(query.from_, query.to, _ANALYSED)
    low = span.start - (span.start - _EPOCH) % QUARTER
    return Span(low, span.end + (_EPOCH - span.end) % QUARTER)


def _span(start: datetime | None, end: datetime | None, default: timedelta) -> Span:
    span = span_of(start, end, default, datetime.now(UTC))
    if span.end - span.start > timedelta(days=MOST_DAYS):
        raise invalid("from", "the range has more than five years", "ask for a shorter one")
    return span


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
