"""The newest weeks of a home's ledger in memory, a page a civil day."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from streams.cost.days import Span, civil_day, day_at, days_of
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.month import QUARTER


class Page(NamedTuple):
    """The quarter hours of one civil day; `measured` where a meter has a row."""

    energy_uwh: Energies
    export_uwh: Energies
    measured: NDArray[np.bool_]

    @classmethod
    def empty(cls, quarters: int) -> "Page":
        return cls(
            np.zeros(quarters, np.int64), np.zeros(quarters, np.int64), np.zeros(quarters, np.bool_)
        )

    def part(self, first: int, quarters: int) -> "Page":
        taken = slice(first, first + quarters)
        return Page(self.energy_uwh[taken], self.export_uwh[taken], self.measured[taken])


@dataclass(slots=True)
class Book:
    """The ledger of a home until `at`; what comes later is not in it.

    A day is written anew whole, so a late row costs its day and nothing else.
    """

    zone: ZoneInfo
    at: datetime
    pages: dict[date, Page] = field(default_factory=dict)
    _opened: tuple[Span, Page] | None = field(default=None, init=False)

    def missing(self, span: Span) -> list[date]:
        """The days of `span` until `at` that are not held."""
        end = min(span.end, self.at)
        if end <= span.start:
            return []
        return [day for day in days_of(Span(span.start, end), self.zone) if day not in self.pages]

    def write(self, day: date, rows: Iterable[tuple[datetime, int, int]]) -> None:
        """Replace a day by its rows `(start_at, energy_uwh, export_uwh)`, one a quarter hour."""
        span = civil_day(day, self.zone)
        page = Page.empty(span.quarters)
        for start_at, energy_uwh, export_uwh in rows:
            if start_at >= self.at:
                continue
            index = (start_at - span.start) // QUARTER
            page.energy_uwh[index] += energy_uwh
            page.export_uwh[index] += export_uwh
            page.measured[index] = True
        self.pages[day] = page
        self._opened = None

    def forget(self, days: Iterable[date]) -> None:
        self._opened = None
        for day in days:
            self.pages.pop(day, None)

    def forget_before(self, day: date) -> None:
        self.forget([held for held in self.pages if held < day])

    def over(self, span: Span) -> Ledger:
        """The ledger of a span that begins and ends at midnight; what is not held is 0."""
        page = self.page_of(span)
        return Ledger(span.start, span.end, page.energy_uwh, page.export_uwh)

    def open(self, span: Span) -> None:
        """Lay the pages of the span behind each other, once for all that is asked of it."""
        page = self._laid_out(span)
        for column in page:
            column.flags.writeable = False
        self._opened = span, page

    def page_of(self, span: Span) -> Page:
        """The pages of the span, one behind the other. Read only."""
        if self._opened is not None:
            opened, page = self._opened
            if opened.start <= span.start and span.end <= opened.end:
                return page.part((span.start - opened.start) // QUARTER, span.quarters)
        return self._laid_out(span)

    def _laid_out(self, span: Span) -> Page:
        whole = Page.empty(span.quarters)
        for day in days_of(span, self.zone):
            page = self.pages.get(day)
            if page is not None:
                first = (civil_day(day, self.zone).start - span.start) // QUARTER
                for into, column in zip(whole, page, strict=True):
                    into[first : first + len(column)] = column
        return whole

    @property
    def today(self) -> date:
        """The day of the newest quarter hour."""
        return day_at(self.at - QUARTER, self.zone)


def cut(ledger: Ledger, until: datetime) -> Ledger:
    """The same ledger with 0 from `until` on."""
    kept = max(0, (until - ledger.start) // QUARTER)
    energy, export = ledger.energy_uwh.copy(), ledger.export_uwh.copy()
    energy[kept:] = 0
    export[kept:] = 0
    return Ledger(ledger.start, ledger.end, energy, export)
