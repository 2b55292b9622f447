"""Which homes' costs are worked out anew, and that the database has them before Kafka does."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

import psycopg
from prometheus_client import Counter, Gauge

from sinks import costs
from sinks.costs import HomeRow
from sinks.spot_prices import prices_of
from streams.cost.book import Book
from streams.cost.costing import Costing
from streams.cost.days import Span, civil_day, day_at, days_of
from streams.cost.history import months_before, uses_of
from streams.cost.home import Assessed, Home, assess, needed, without_energy
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.category import MonthUse
from streams.tariffs.month import Cycle
from streams.tariffs.spot import SpotPrices

ASSESSED = Counter("meterstream_cost_homes", "Homes whose cost was worked out")
CHANGED = Counter("meterstream_cost_changed", "Costs that said something new")
ALERTS = Counter("meterstream_cost_alerts", "Budget alerts raised or cleared")
DAYS_READ = Counter("meterstream_cost_days_read", "Days of a home's ledger read")
BOOKS = Gauge("meterstream_cost_books", "Homes whose last weeks are held in memory")

HOMES_AT_ONCE = 50
BOOKS_HELD = 2_000
"""Two months of one home take some 100 kB."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Changed = Mapping[int, set[int]]
"""By channel: the starts of quarter hours that changed, in µs since the epoch."""


class _History(NamedTuple):
    cycles: list[Cycle]
    uses: list[MonthUse]


class CostJob:
    """The homes of one process. What it holds in memory can be read again at any time.

    `conn` is autocommit; each batch of homes is one transaction that sees one snapshot.
    """

    def __init__(self, conn: psycopg.Connection[Any], catalogue: Catalogue) -> None:
        self._conn = conn
        self._catalogue = catalogue
        self._books: OrderedDict[str, Book] = OrderedDict()
        self._histories: dict[str, _History] = {}
        self._prices: dict[tuple[str, Span], SpotPrices] = {}
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    def usage_changed(self, changed: Changed) -> int:
        """Work out the homes that count these channels; returns how many."""
        if not changed:
            return 0
        by_home: dict[str, set[datetime]] = {}
        for channel_id, home_id in costs.homes_of_channels(self._conn, changed):
            starts = (_EPOCH + timedelta(microseconds=us) for us in changed[channel_id])
            by_home.setdefault(home_id, set()).update(starts)
        for batch in _batches(sorted(by_home)):
            with self._conn.transaction():
                self._assess({home_id: by_home[home_id] for home_id in batch})
        return len(by_home)

    def terms_changed(self) -> int:
        """Work out homes whose contracts, meters or budgets were changed; returns how many."""
        with self._conn.transaction():
            homes = costs.take_dirty(self._conn, HOMES_AT_ONCE)
            for home_id in homes:
                self._books.pop(home_id, None)
                self._histories.pop(home_id, None)
            self._assess({home_id: set() for home_id in homes})
        return len(homes)

    def _assess(self, changed: Mapping[str, set[datetime]]) -> None:
        if not changed:
            return
        self._prices.clear()
        found = costs.load_homes(self._conn, list(changed))
        homes = {row.home_id: self._home(row, changed[row.home_id]) for row in found}
        books = {row.home_id: self._book(row, changed[row.home_id]) for row in found if row.at}
        spans = {
            home_id: needed(homes[home_id], book.at, changed[home_id])
            for home_id, book in books.items()
        }
        self._read(books, spans)
        assessed: list[Assessed] = []
        for row in found:
            home = homes[row.home_id]
            if row.home_id in books:
                assessed.append(assess(home, books[row.home_id], changed[row.home_id]))
            else:
                assessed.append(Assessed(without_energy(home), {}, []))
        CHANGED.inc(costs.store(self._conn, assessed))
        ASSESSED.inc(len(assessed))
        ALERTS.inc(sum(len(one.alerts) for one in assessed))
        for home_id, book in books.items():
            kept = min(span.start for span in needed(homes[home_id], book.at, ()))
            book.forget_before(day_at(kept, book.zone))
        while len(self._books) > BOOKS_HELD:
            self._books.popitem(last=False)
        BOOKS.set(len(self._books))

    def _home(self, row: HomeRow, changed: set[datetime]) -> Home:
        return Home(
            row.home_id,
            row.zone,
            Costing(
                self._catalogue,
                row.zone,
                row.contracts,
                self._history(row, changed),
                self._prices_of,
            ),
            row.meter_problem,
            row.budgets,
            row.standings,
            row.metered,
        )

    def _prices_of(self, market: str, span: Span) -> SpotPrices:
        """Read once for all homes of a batch."""
        if (market, span) not in self._prices:
            self._prices[market, span] = prices_of(self._conn, market, span.start, span.end)
        return self._prices[market, span]

    def _history(self, row: HomeRow, changed: set[datetime]) -> Sequence[MonthUse]:
        """The use of the home's months, where its category depends on it."""
        cycles = months_before(self._catalogue, row.contracts, row.zone, row.at)
        if not cycles:
            return ()
        held = self._histories.get(row.home_id)
        if held is None or held.cycles != cycles or any(at < cycles[-1].end for at in changed):
            spans = [Span(cycle.start, cycle.end) for cycle in cycles]
            energies_uwh = costs.energies_uwh(self._conn, row.home_id, spans)
            held = _History(cycles, uses_of(cycles, energies_uwh))
            self._histories[row.home_id] = held
        return held.uses

    def _book(self, row: HomeRow, changed: set[datetime]) -> Book:
        """The home's book, without the pages that are not true any more."""
        at = row.at
        assert at is not None
        held = self._books.pop(row.home_id, None)
        if held is None or held.zone != row.zone or at < held.at:
            held = Book(row.zone, at)
        stale = {day_at(start, row.zone) for start in changed}
        stale.update(days_of(Span(held.at, at), row.zone) if at > held.at else ())
        held.forget(stale)
        held.at = at
        self._books[row.home_id] = held
        return held

    def _read(self, books: Mapping[str, Book], spans: Mapping[str, list[Span]]) -> None:
        """Fill the pages that are missing, in one query."""
        missing = {
            home_id: sorted({day for span in spans[home_id] for day in book.missing(span)})
            for home_id, book in books.items()
        }
        rows = costs.quarter_rows(
            self._conn,
            [
                (home_id, span)
                for home_id, days in missing.items()
                for span in _runs(days, books[home_id])
            ],
        )
        for home_id, days in missing.items():
            book = books[home_id]
            by_day: dict[date, list[costs.QuarterRow]] = {day: [] for day in days}
            for one in rows.get(home_id, ()):
                by_day[day_at(one[0], book.zone)].append(one)
            for day, of_day in by_day.items():
                book.write(day, of_day)
            DAYS_READ.inc(len(days))


def _runs(days: Sequence[date], book: Book) -> Iterator[Span]:
    """Days in a row as one span."""
    start: datetime | None = None
    end: datetime | None = None
    for day in days:
        span = civil_day(day, book.zone)
        if start is not None and end == span.start:
            end = span.end
            continue
        if start is not None and end is not None:
            yield Span(start, end)
        start, end = span
    if start is not None and end is not None:
        yield Span(start, end)


def _batches(homes: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(homes)
    while batch := list(islice(rest, HOMES_AT_ONCE)):
        yield batch
