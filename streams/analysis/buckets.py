"""Buckets of a home's ledger: quarter hours, civil days, months and years, billing cycles."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

from streams.tariffs.contract import Contract, agreed_within
from streams.tariffs.ledger import Energies
from streams.tariffs.month import QUARTER

HomeBucket = Literal["15m", "1d", "cycle", "1mo", "1y"]


@dataclass(frozen=True, slots=True)
class Span:
    """`[start, end)`; `label` is what people call it: a day, a month, a year, a billing month."""

    start: datetime
    end: datetime
    label: str


def spans_of(
    bucket: HomeBucket,
    start: datetime,
    end: datetime,
    zone: ZoneInfo,
    contracts: Sequence[Contract] = (),
) -> list[Span]:
    """The whole buckets that touch `[start, end)`, in order and without holes.

    Cycles are those of the home's contracts; there are none before the first of them holds.
    """
    if bucket == "cycle":
        return _cycles(start, end, zone, contracts)
    if bucket == "15m":
        first = start - (start - datetime(1970, 1, 1, tzinfo=UTC)) % QUARTER
        count = -((first - end) // QUARTER)
        edges = [first + number * QUARTER for number in range(count + 1)]
        return [Span(low, high, low.astimezone(zone).isoformat()) for low, high in pairwise(edges)]
    days = [_first_day(bucket, start.astimezone(zone).date())]
    while midnight(days[-1], zone) < end:
        days.append(_next(bucket, days[-1]))
    labels = {"1d": 10, "1mo": 7, "1y": 4}
    return [
        Span(midnight(low, zone), midnight(high, zone), low.isoformat()[: labels[bucket]])
        for low, high in pairwise(days)
    ]


def sums(values: Energies, spans: Sequence[Span]) -> list[int]:
    """The sum of quarter hours in each of `spans`, which follow each other and begin with them."""
    if not spans:
        return []
    return [int(part) for part in np.add.reduceat(values, first_quarters(spans))]


def first_quarters(spans: Sequence[Span]) -> list[int]:
    """Where each of spans that follow each other begins in the ledger of them all."""
    return [(span.start - spans[0].start) // QUARTER for span in spans]


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def month_spans(start: datetime, end: datetime, zone: ZoneInfo) -> list[Span]:
    """The months that touch `[start, end)`, the first and the last cut to it."""
    return [
        Span(max(span.start, start), min(span.end, end), span.label)
        for span in spans_of("1mo", start, end, zone)
    ]


def _cycles(
    start: datetime, end: datetime, zone: ZoneInfo, contracts: Sequence[Contract]
) -> list[Span]:
    return [
        Span(cycle.start, cycle.end, str(cycle.month))
        for _, cycle in agreed_within(contracts, start, end, zone)
    ]


def _first_day(bucket: HomeBucket, day: date) -> date:
    if bucket == "1y":
        return day.replace(month=1, day=1)
    return day.replace(day=1) if bucket == "1mo" else day


def _next(bucket: HomeBucket, first: date) -> date:
    if bucket == "1y":
        return first.replace(year=first.year + 1)
    if bucket == "1mo":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=1)
