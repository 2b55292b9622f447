"""Tariffs as data: what a document of rates may say, and what makes it contradictory.

A document is TOML (or JSON) with `calendars`, `schedules`, `surcharges`, `rate_tables`,
`categories` and `tariffs`. Rates and surcharges are valid for billing months `[from, until)`; all
prices are in the tariff's currency, before tax.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from streams.tariffs.month import Month
from streams.tariffs.week import DayName, Window, check_week

BilledAs = DayName | Literal["weekday"]
"""As which day a kind of holiday counts; `weekday` is its own day of the week."""


def _month(value: object) -> object:
    return Month.parse(value) if isinstance(value, str) else value


def _zone(value: object) -> object:
    try:
        return ZoneInfo(value) if isinstance(value, str) else value
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is no time zone; name one like Asia/Bangkok") from error


BillingMonth = Annotated[Month, BeforeValidator(_month)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Price = Annotated[Decimal, Field(allow_inf_nan=False)]
Positive = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Frozen, and it refuses keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Block(Part):
    """The price of what lies above the block before, up to and including `up_to` kWh (or kW)."""

    up_to: Positive | None = None
    price: Price


class HolidaySet(Part):
    """Days by kind for whole years; a year outside `years` is not known."""

    zone: Zone
    years: tuple[int, int]
    kinds: tuple[str, ...]
    days: dict[date, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for day, kind in self.days.items():
            if kind not in self.kinds:
                raise ValueError(
                    f"{day} is of the unknown holiday kind {kind!r}; "
                    f"use one of {', '.join(self.kinds)}, or add it to kinds"
                )
            if not self.years[0] <= day.year <= self.years[1]:
                raise ValueError(f"{day} lies outside years {self.years}; widen years")
        return self


class Schedule(Part):
    """Which period each quarter hour belongs to, and as which day each kind of holiday counts."""

    windows: Annotated[tuple[Window, ...], Field(min_length=1)]
    calendar: str | None = None
    holidays: dict[str, BilledAs] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole_week(self) -> Self:
        check_week(self.windows)
        if self.holidays and self.calendar is None:
            raise ValueError("holidays are given, but no calendar; name the calendar")
        return self

    @property
    def periods(self) -> frozenset[str]:
        return frozenset(window.period for window in self.windows)


class Prices(Part):
    """Blocks for each period of a schedule; without a schedule exactly one period."""

    schedule: str | None = None
    periods: Annotated[dict[str, tuple[Block, ...]], Field(min_length=1)]

    @model_validator(mode="after")
    def _closed(self) -> Self:
        for name, blocks in self.periods.items():
            _check_blocks(f"periods.{name}", blocks)
        if self.schedule is None and len(self.periods) != 1:
            raise ValueError(
                f"{len(self.periods)} periods ({', '.join(self.periods)}) without a schedule; "
                "name the schedule that tells them apart"
            )
        return self


class Demand(Prices):
    """A price per kW of the greatest mean power over `measuring_minutes` in each period."""

    name: str = "demand"
    measuring_minutes: Literal[15, 30, 60] = 15


class Fixed(Part):
    """A charge for having the connection at all."""

    name: str = "service"
    price: Price
    per: Literal["month", "day"] = "month"


class SurchargeUse(Part):
    """Which surcharge a rate carries, and as which class of customer."""

    name: str
    customer: str


class Tax(Part):
    """A share of the subtotal."""

    name: str = "vat"
    rate: Annotated[Decimal, Field(ge=0, lt=10)]


class ExportCredit(Part):
    """What a kWh given to the grid earns; `taxed`: it lowers the subtotal, else the total."""

    price: Price
    taxed: bool = False


class Rates(Part):
    """What the billing months `[from, until)` cost; or why that is not known."""

    from_: BillingMonth = Field(alias="from")
    until: BillingMonth | None = None
    source: str | None = None
    unknown: str | None = None
    energy: Prices | None = None
    spot: str | None = None
    prorate_days: Positive | None = None
    demand: tuple[Demand, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    surcharges: tuple[SurchargeUse, ...] = ()
    taxes: tuple[Tax, ...] = ()
    minimum: Positive | None = None
    export_credit: ExportCredit | None = None

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.unknown is None and self.energy is None and self.spot is None:
            raise ValueError("no energy prices; give energy or spot, or say why in unknown")
        check_months([(self.from_, self.until)])
        return self


class SurchargeValue(Part):
    """A price per kWh in `[from, until)`. Of several revisions the highest is the final one."""

    from_: BillingMonth = Field(alias="from")
    until: BillingMonth
    price: Price
    revision: Annotated[int, Field(ge=1)] = 1


class Surcharge(Part):
    """A price per kWh by class of customer that changes more often than the rates."""

    customers: Annotated[dict[str, tuple[SurchargeValue, ...]], Field(min_length=1)]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        for customer, values in self.customers.items():
            for revision in {value.revision for value in values}:
                spans = [(v.from_, v.until) for v in values if v.revision == revision]
                try:
                    check_months(spans)
                except ValueError as error:
                    raise ValueError(f"customers.{customer}: {error}") from error
        return self


class Category(Part):
    """Two tariffs between which use decides: above `limit_kwh` for `months` months running."""

    small: str
    large: str
    limit_kwh: Positive
    months: Annotated[int, Field(ge=1)]
    ampere_a: Positive


class Tariff(Part):
    """One tariff of one utility through the years."""

    id: str
    title: str
    title_th: str | None = None
    utility: str | None = None
    number: str | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    decimals: Annotated[int, Field(ge=0, le=6)] = 2
    zone: Zone
    category: str | None = None
    rate_table: str | None = None
    rates: tuple[Rates, ...] = ()

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if (self.rate_table is None) == (not self.rates):
            raise ValueError("name a rate_table or give rates of its own, not both")
        check_months([(rates.from_, rates.until) for rates in self.rates])
        return self


class Document(Part):
    """Everything one or several files say, before names are resolved."""

    calendars: dict[str, HolidaySet] = Field(default_factory=dict)
    schedules: dict[str, Schedule] = Field(default_factory=dict)
    surcharges: dict[str, Surcharge] = Field(default_factory=dict)
    rate_tables: dict[str, tuple[Rates, ...]] = Field(default_factory=dict)
    categories: dict[str, Category] = Field(default_factory=dict)
    tariffs: dict[str, Tariff] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_month_twice(self) -> Self:
        for name, table in self.rate_tables.items():
            try:
                check_months([(rates.from_, rates.until) for rates in table])
            except ValueError as error:
                raise ValueError(f"rate_tables.{name}: {error}") from error
        return self

    @model_validator(mode="before")
    @classmethod
    def _ids(cls, value: Any) -> Any:
        """The key of a tariff is its id."""
        if isinstance(value, Mapping) and isinstance(value.get("tariffs"), Mapping):
            tariffs = {
                key: {"id": key, **tariff} if isinstance(tariff, Mapping) else tariff
                for key, tariff in value["tariffs"].items()
            }
            return {**value, "tariffs": tariffs}
        return value


def check_months(spans: Sequence[tuple[Month, Month | None]]) -> None:
    """Raises ValueError if a month is in two spans, or a span is empty."""
    for start, until in spans:
        if until is not None and until <= start:
            raise ValueError(f"from {start} until {until} holds no month; until is exclusive")
    ordered = sorted(spans, key=lambda span: span[0])
    for (_, until), (start, _) in pairwise(ordered):
        if until is None or until > start:
            raise ValueError(
                f"{start} is valid twice: the rates before it end at {until or 'no month'}; "
                f"set their until to {start}"
            )


def check_periods(prices: Prices, schedule: Schedule) -> None:
    """Raises ValueError unless the schedule and the prices name the same periods."""
    unpriced = sorted(schedule.periods - prices.periods.keys())
    if unpriced:
        raise ValueError(f"period {unpriced[0]!r} of the schedule has no price; add its blocks")
    unused = sorted(prices.periods.keys() - schedule.periods)
    if unused:
        raise ValueError(f"period {unused[0]!r} is never in the schedule; remove it or place it")


def _check_blocks(where: str, blocks: tuple[Block, ...]) -> None:
    if not blocks:
        raise ValueError(f"{where}: no block; give at least one with a price")
    for number, block in enumerate(blocks[:-1], 1):
        if block.up_to is None:
            raise ValueError(
                f"{where}: block {number} has no end, but block {number + 1} follows; "
                f"give block {number} an up_to"
            )
    if blocks[-1].up_to is not None:
        raise ValueError(
            f"{where}: the blocks are open: nothing is priced above {blocks[-1].up_to}; "
            "leave up_to out of the last one"
        )
    edges = [block.up_to for block in blocks[:-1] if block.up_to is not None]
    for number, (before, edge) in enumerate(pairwise(edges), 2):
        if edge <= before:
            raise ValueError(
                f"{where}: blocks {number - 1} and {number} overlap: {number} ends at {edge}, "
                f"{number - 1} at {before}; let each end above the one before"
            )
