"""Homes and ledgers made by hand for the tests of costs."""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from streams.cost.book import Book
from streams.cost.budgets import Budget
from streams.cost.costing import Costing
from streams.cost.days import Span, civil_day, days_of
from streams.cost.home import Home, needed
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER

BANGKOK = ZoneInfo("Asia/Bangkok")
UWH_PER_KWH = 10**9


def home_of(
    catalogue: Catalogue,
    contracts: Sequence[Contract],
    budgets: Sequence[Budget] = (),
    standings=None,
    zone: ZoneInfo = BANGKOK,
    problem: str | None = None,
) -> Home:
    costing = Costing(catalogue, zone, contracts)
    return Home("h1", zone, costing, lambda _: problem, budgets, standings or {})


def book_of(home: Home, ledger: Ledger, at: datetime, changed=()) -> Book:
    """A book that holds what an assessment needs, and nothing else, from this ledger."""
    book = Book(home.zone, at)
    for span in needed(home, at, changed):
        for day in book.missing(span):
            write_day(book, day, ledger)
    return book


def write_day(book: Book, day, ledger: Ledger) -> None:
    span = civil_day(day, book.zone)
    rows = []
    for index in range(span.quarters):
        at = span.start + index * QUARTER
        place = (at - ledger.start) // QUARTER
        if 0 <= place < len(ledger.energy_uwh):
            rows.append((at, int(ledger.energy_uwh[place]), int(ledger.export_uwh[place])))
    book.write(day, rows)


def ledger_from(span: Span, seed: int, most_wh: int = 3_000) -> Ledger:
    """Any quarter hours, some without energy, some that export."""
    chance = np.random.default_rng(seed)
    energy = chance.integers(0, most_wh * 1_000_000, span.quarters)
    energy[chance.random(span.quarters) < 0.2] = 0
    export = chance.integers(0, 500 * 1_000_000, span.quarters)
    export[chance.random(span.quarters) < 0.7] = 0
    return Ledger(span.start, span.end, energy.astype(np.int64), export.astype(np.int64))


def whole_days(span: Span, zone: ZoneInfo) -> int:
    return len(days_of(span, zone))
