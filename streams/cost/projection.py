"""What the hours to come will use, if they are like the hours of the last weeks."""

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schemas.cost import Method
from streams.cost.book import Book
from streams.cost.days import HOURS_A_DAY, HOURS_A_WEEK, Span, hours_of_week, midnight
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.month import QUARTER

LOOK_BACK_DAYS = 28


@dataclass
class Outlook:
    """The ledger of `book`, and from its end on the mean of the last 28 days and today.

    The mean is that of the same hour of the week where every one of them was measured, else of
    the same hour of the day, else of all quarter hours. Quarter hours without a row do not count.
    """

    book: Book

    @cached_property
    def method(self) -> Method | None:
        """None without any measured quarter hour: nothing can be projected."""
        counts = self._sums[0]
        if counts.all():
            return Method.WEEKDAY_HOUR
        if counts.reshape(-1, HOURS_A_DAY).any(axis=0).all():
            return Method.HOUR
        return Method.MEAN if counts.any() else None

    def over(self, span: Span) -> Ledger:
        """The ledger of a span that begins and ends at midnight, projected from `book.at` on."""
        measured = self.book.over(span)
        energy, export = measured.energy_uwh.copy(), measured.export_uwh.copy()
        ahead = Span(max(span.start, self.book.at), span.end)
        if ahead.quarters > 0 and self.method is not None:
            first = (ahead.start - span.start) // QUARTER
            hours = hours_of_week(span, self.book.zone)[first:]
            energy[first:] = self._means[0][hours]
            export[first:] = self._means[1][hours]
        return Ledger(span.start, span.end, energy, export)

    @cached_property
    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """By hour of the week: quarter hours measured, their energy and their export."""
        today = self.book.today
        zone = self.book.zone
        span = Span(
            midnight(today - timedelta(days=LOOK_BACK_DAYS), zone),
            midnight(today + timedelta(days=1), zone),
        )
        page = self.book.page_of(span)
        hours = hours_of_week(span, zone)[page.measured]
        counts = np.bincount(hours, minlength=HOURS_A_WEEK)
        energy, export = np.zeros(HOURS_A_WEEK, np.int64), np.zeros(HOURS_A_WEEK, np.int64)
        np.add.at(energy, hours, page.energy_uwh[page.measured])
        np.add.at(export, hours, page.export_uwh[page.measured])
        return counts, energy, export

    @cached_property
    def _means(self) -> tuple[Energies, Energies]:
        """µWh a quarter hour, by hour of the week."""
        counts, energy, export = (self._spread(column) for column in self._sums)
        return energy // counts, export // counts

    def _spread(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums over all that the method takes for alike."""
        if self.method is Method.WEEKDAY_HOUR:
            return column
        if self.method is Method.HOUR:
            return np.tile(column.reshape(-1, HOURS_A_DAY).sum(axis=0), HOURS_A_WEEK // HOURS_A_DAY)
        return np.full(HOURS_A_WEEK, column.sum())
