"""All tariffs that are known, each name resolved: what a tariff costs in a billing month."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from streams.tariffs.errors import BadTariff, NotKnown, UnknownTariff
from streams.tariffs.model import (
    Category,
    Demand,
    Document,
    HolidaySet,
    Prices,
    Rates,
    Schedule,
    Surcharge,
    Tariff,
    check_periods,
)
from streams.tariffs.month import Month
from streams.tariffs.surcharges import surcharge_price
from streams.tariffs.tou import Clock


@dataclass(frozen=True, slots=True)
class PricedDemand:
    """A demand charge and the clock that tells its periods; no clock, one period."""

    prices: Demand
    clock: Clock | None


@dataclass(frozen=True, slots=True)
class MonthRates:
    """Everything a tariff says about one billing month."""

    tariff: Tariff
    month: Month
    rates: Rates
    clock: Clock | None
    demand: tuple[PricedDemand, ...]
    surcharges: Mapping[str, Decimal]


class Catalogue:
    """Tariffs by id. Built once; it remembers what it resolves."""

    def __init__(self, document: Document) -> None:
        """Raises BadTariff if a tariff names something that is not there."""
        self._document = document
        self._clocks: dict[tuple[str, str], Clock] = {}
        self._resolved: dict[tuple[str, Month, int | None], MonthRates] = {}
        for tariff in document.tariffs.values():
            _Check(document, tariff).run()
        for name, category in document.categories.items():
            for tariff_id in (category.small, category.large):
                if tariff_id not in document.tariffs:
                    raise BadTariff(f'categories.{name}: no tariff "{tariff_id}"; add it')

    @property
    def ids(self) -> list[str]:
        return sorted(self._document.tariffs)

    def tariff(self, tariff_id: str) -> Tariff:
        found = self._document.tariffs.get(tariff_id)
        if found is None:
            raise UnknownTariff(
                f'no tariff is called "{tariff_id:.60}"; known are {", ".join(self.ids)}'
            )
        return found

    def versions(self, tariff_id: str) -> tuple[Rates, ...]:
        """What it costs in which billing months, as far as that has been entered, by time."""
        return tuple(sorted(_versions(self._document, self.tariff(tariff_id)), key=_begins))

    def schedule(self, name: str) -> Schedule:
        return self._document.schedules[name]

    def category(self, tariff_id: str) -> Category | None:
        """The rule by which this tariff and its neighbour change places, if there is one."""
        name = self.tariff(tariff_id).category
        return None if name is None else self._document.categories[name]

    def surcharge(self, name: str) -> Surcharge:
        return self._document.surcharges[name]

    def spot_tariffs(self) -> dict[str, list[str]]:
        """By market: the ids of the tariffs that follow it in any month."""
        found: dict[str, list[str]] = {}
        for tariff in self._document.tariffs.values():
            for market in {one.spot for one in _versions(self._document, tariff) if one.spot}:
                found.setdefault(market, []).append(tariff.id)
        return found

    def rates(
        self, tariff_id: str, month: Month, surcharge_revision: int | None = None
    ) -> MonthRates:
        """The rates for bills of `month`; surcharges as last set, or as of a revision.

        Raises UnknownTariff; NotKnown where the rates or a surcharge of that month are not.
        """
        key = (tariff_id, month, surcharge_revision)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(*key)
        return self._resolved[key]

    def _resolve(self, tariff_id: str, month: Month, revision: int | None) -> MonthRates:
        tariff = self.tariff(tariff_id)
        rates = _valid(tariff, _versions(self._document, tariff), month)
        surcharges = {
            use.name: surcharge_price(self._document.surcharges[use.name], use, month, revision)
            for use in rates.surcharges
        }
        return MonthRates(
            tariff,
            month,
            rates,
            None if rates.energy is None else self._clock(rates.energy, tariff),
            tuple(PricedDemand(demand, self._clock(demand, tariff)) for demand in rates.demand),
            surcharges,
        )

    def _clock(self, prices: Prices, tariff: Tariff) -> Clock | None:
        """One clock for all tariffs of a schedule and zone."""
        if prices.schedule is None:
            return None
        key = (prices.schedule, tariff.zone.key)
        if key not in self._clocks:
            schedule = self._document.schedules[prices.schedule]
            self._clocks[key] = Clock(schedule, _calendar(self._document, schedule), tariff.zone)
        return self._clocks[key]


def _begins(rates: Rates) -> Month:
    return rates.from_


def _versions(document: Document, tariff: Tariff) -> tuple[Rates, ...]:
    return tariff.rates if tariff.rate_table is None else document.rate_tables[tariff.rate_table]


def _calendar(document: Document, schedule: Schedule) -> HolidaySet | None:
    return None if schedule.calendar is None else document.calendars[schedule.calendar]


def _valid(tariff: Tariff, versions: tuple[Rates, ...], month: Month) -> Rates:
    for rates in versions:
        if rates.from_ <= month and (rates.until is None or month < rates.until):
            if rates.unknown is not None:
                raise NotKnown(
                    f'tariff "{tariff.id}": the rates of {month} are not known: {rates.unknown}; '
                    "enter them when they are published"
                )
            return rates
    spans = ", ".join(f"{one.from_} until {one.until or 'now'}" for one in versions)
    raise NotKnown(
        f'tariff "{tariff.id}": the rates of {month} are not known; known are {spans}; '
        "enter those of that month"
    )


class _Check:
    """That everything a tariff names is there and fits."""

    def __init__(self, document: Document, tariff: Tariff) -> None:
        self.document = document
        self.tariff = tariff

    def run(self) -> None:
        table = self.tariff.rate_table
        self._named("rate_table", table, self.document.rate_tables)
        self._named("category", self.tariff.category, self.document.categories)
        for rates in _versions(self.document, self.tariff):
            for field, prices in _prices(rates):
                self._schedule(f"rates from {rates.from_}: {field}", prices)
            for use in rates.surcharges:
                where = f"rates from {rates.from_}: surcharges"
                self._named(where, use.name, self.document.surcharges)
                customers = self.document.surcharges[use.name].customers
                self._named(f"{where}: {use.name} customer", use.customer, customers)

    def _schedule(self, where: str, prices: Prices) -> None:
        if prices.schedule is None:
            return
        self._named(f"{where}: schedule", prices.schedule, self.document.schedules)
        schedule = self.document.schedules[prices.schedule]
        try:
            check_periods(prices, schedule)
        except ValueError as error:
            raise self._bad(f'{where}: schedule "{prices.schedule}"', str(error)) from error
        self._named(
            f'schedule "{prices.schedule}": calendar', schedule.calendar, self.document.calendars
        )
        calendar = _calendar(self.document, schedule)
        if calendar is not None:
            self._kinds(f'schedule "{prices.schedule}": holidays', schedule, calendar)

    def _kinds(self, where: str, schedule: Schedule, calendar: HolidaySet) -> None:
        unknown = sorted(schedule.holidays.keys() - set(calendar.kinds))
        if unknown:
            raise self._bad(
                where,
                f"unknown holiday kind {unknown[0]!r}; calendar {schedule.calendar!r} has "
                f"{', '.join(calendar.kinds)}",
            )
        unsaid = sorted(set(calendar.kinds) - schedule.holidays.keys())
        if unsaid:
            raise self._bad(
                where,
                f"says nothing of the kind {unsaid[0]!r} of calendar {schedule.calendar!r}; "
                'give it the name of a day, or "weekday"',
            )
        if calendar.zone.key != self.tariff.zone.key:
            raise self._bad(
                where,
                f"the days of calendar {schedule.calendar!r} are of {calendar.zone.key}, the "
                f"tariff is of {self.tariff.zone.key}; use a calendar of that zone",
            )

    def _named(self, where: str, name: str | None, known: Mapping[str, object]) -> None:
        if name is not None and name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise self._bad(where, f'"{name}" is not defined; define it, or use one of {listed}')

    def _bad(self, where: str, what: str) -> BadTariff:
        return BadTariff(f'tariff "{self.tariff.id}": {where}: {what}')


def _prices(rates: Rates) -> Iterator[tuple[str, Prices]]:
    if rates.energy is not None:
        yield "energy", rates.energy
    for number, demand in enumerate(rates.demand):
        yield f"demand[{number}]", demand
