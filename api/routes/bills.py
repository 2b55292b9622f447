"""Bills of homes, what other tariffs would have cost, and the utility's bill beside ours."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response

from api import bill_models as models
from api.database import Reading, SyncConnection, Writing
from api.problems import Problem, invalid
from api.routes.homes import HOME_ERRORS, HomeId
from sinks import bills
from sinks.bill_reading import Asked, home_bill
from sinks.contracts import contracts, find_home, ledger_of
from sinks.spot_prices import prices_by_market
from streams.billing import utility, what_if
from streams.billing.table import bill_csv
from streams.billing.words import Language
from streams.tariffs.errors import UnknownTariff
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from streams.tariffs.shown import rates_of_month, summary

router = APIRouter(prefix="/api/v1", tags=["bills"])
LONGEST_WHAT_IF_DAYS = 366 * 3
BillingMonth = Annotated[str, Path(max_length=7, examples=["2026-02"])]


@router.get(
    "/homes/{home_id}/bills",
    operation_id="listBills",
    summary="List issued bills",
    responses=HOME_ERRORS,
)
def list_bills(home_id: HomeId, conn: Reading) -> models.BillList:
    """All versions, the newest month first."""
    find_home(conn, home_id)
    found = bills.versions_of(conn, home_id)
    return models.BillList.model_validate({"items": [bill.summary() for bill in found]})


@router.get(
    "/homes/{home_id}/bills/{month}",
    operation_id="getBill",
    summary="Look at a bill",
    responses=HOME_ERRORS
    | {200: {"description": "The bill, or a draft.", "content": {"text/csv": {}}}},
)
def get_bill(
    home_id: HomeId,
    month: BillingMonth,
    query: Annotated[models.BillQuery, Query()],
    conn: Reading,
) -> Response:
    """The newest version that was issued, the one asked for, or a draft while there is none.

    The document is what the hash is of, but for `issue`, which says status and version.
    """
    if query.tariff is not None and (query.version is not None or query.as_of is not None):
        raise invalid("tariff", "makes a draft, which has no versions", "leave out one of them")
    found = home_bill(
        conn,
        known_tariffs(),
        home_id,
        _month(month),
        tariff_id=query.tariff,
        version=query.version,
        as_of=query.as_of,
    )
    if query.format == "csv":
        return Response(bill_csv(found.document), media_type="text/csv; charset=utf-8")
    if query.format == "pdf":
        from streams.billing.page import bill_pdf  # a third of what the API would import to start

        front = found.front(known_tariffs(), query.lang is Language.THAI)
        return Response(
            bill_pdf(found.document, front, query.lang),
            media_type="application/pdf",
            headers={"Content-Disposition": f'inline; filename="bill-{month}.pdf"'},
        )
    return Response(msgspec.json.encode(found.told()), media_type="application/json")


@router.get("/tariffs", operation_id="listTariffs", summary="List tariffs")
def list_tariffs() -> models.TariffList:
    known = known_tariffs()
    return models.TariffList.model_validate({"items": [summary(known, one) for one in known.ids]})


@router.get(
    "/tariffs/{tariff_id}",
    operation_id="getTariff",
    summary="Look at a tariff",
    responses=HOME_ERRORS,
)
def get_tariff(
    tariff_id: Annotated[str, Path(max_length=100, examples=["mea-1.2"])],
    month: Annotated[
        str | None, Query(max_length=7, examples=["2026-02"], description="Default: this month.")
    ] = None,
) -> models.TariffRates:
    """Its prices, times, charges and taxes in a billing month."""
    known = known_tariffs()
    try:
        today = datetime.now(known.tariff(tariff_id).zone)
    except UnknownTariff as error:
        raise Problem(404, "not-found", str(error)) from error
    asked = Month(today.year, today.month) if month is None else _month(month)
    return models.TariffRates.model_validate(rates_of_month(known, tariff_id, asked))


@router.post(
    "/homes/{home_id}/what-if",
    operation_id="compareTariffs",
    summary="Compare tariffs",
    responses=HOME_ERRORS,
)
def compare_tariffs(home_id: HomeId, body: models.WhatIf, conn: Reading) -> models.Offers:
    """What the home's own energy of an interval costs by several tariffs, cheapest first.

    Each billing month that the interval touches is rated by itself, by the meter-reading day of
    then; its fixed charges count whole.
    """
    if (body.to - body.from_).days > LONGEST_WHAT_IF_DAYS:
        raise invalid("from", "the interval is longer than three years", "ask for a shorter one")
    find_home(conn, home_id)
    held = contracts(conn, home_id)
    ledger = ledger_of(conn, home_id, body.from_, body.to).ledger
    known = known_tariffs()
    wanted = body.tariffs or known.ids
    spot = prices_by_market(conn, known, wanted, body.from_, body.to)
    offers = what_if.compare(known, wanted, ledger, held, spot)
    if body.tariffs is None:
        offers = [offer for offer in offers if offer.unknown is None]
    return models.Offers(items=what_if.told(offers, ledger))


@router.put(
    "/homes/{home_id}/bills/{month}/utility",
    operation_id="setUtilityBill",
    summary="Enter the utility's bill",
    responses=HOME_ERRORS,
)
def set_utility_bill(
    home_id: HomeId, month: BillingMonth, body: models.UtilityBill, conn: Writing
) -> models.Compared:
    """And get it compared with ours, line by line. Entering it again replaces it."""
    utility.check_lines(body.lines)
    ours = home_bill(conn, known_tariffs(), home_id, _month(month))
    bills.keep_utility_bill(conn, home_id, _month(month), body.lines)
    return _compared(body.lines, ours)


@router.get(
    "/homes/{home_id}/bills/{month}/utility",
    operation_id="compareUtilityBill",
    summary="Compare the utility's bill",
    responses=HOME_ERRORS,
)
def compare_utility_bill(home_id: HomeId, month: BillingMonth, conn: Reading) -> models.Compared:
    lines = _entered(conn, home_id, _month(month))
    return _compared(lines, home_bill(conn, known_tariffs(), home_id, _month(month)))


def _entered(conn: SyncConnection, home_id: str, month: Month) -> dict[str, Decimal]:
    find_home(conn, home_id)
    lines = bills.utility_bill(conn, home_id, month)
    if lines is None:
        raise Problem(
            404, "not-found", f"nobody has entered the utility's bill of {month}; PUT it here"
        )
    return lines


def _compared(lines: dict[str, Decimal], ours: Asked) -> models.Compared:
    made: dict[str, Any] = utility.beside_ours(lines, ours.document)
    return models.Compared.model_validate({"status": ours.head["status"], **made})


def _month(text: str) -> Month:
    try:
        return Month.parse(text)
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise invalid("month", problem, remedy) from error
