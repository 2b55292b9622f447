"""What the routes of bills take and give."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.instants import Instant
from api.models import Answer
from streams.billing.words import Language

Money = Annotated[str, Field(examples=["1234.56"], description="A decimal number as text.")]


class BillQuery(BaseModel):
    """`version` and `as_of` choose an issued version; `tariff` asks for a draft by another one."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(default=None, ge=1, le=2**31 - 1)
    as_of: Instant | None = Field(default=None, description="The version that was newest then.")
    tariff: str | None = Field(default=None, max_length=100)
    format: Literal["json", "csv", "pdf"] = "json"
    lang: Language = Field(default=Language.THAI, description="Of the PDF.")


class BillSummary(Answer):
    """One version of a bill. `adjustment` says what it changed against the one before."""

    month: str = Field(examples=["2026-02"])
    tariff: str
    currency: str
    total: Money
    status: Literal["issued"]
    bill: int
    version: int
    issued_at: str
    sha256: str
    adjustment: dict[str, Any] | None


class BillList(Answer):
    items: list[BillSummary]


class MonthSpan(Answer):
    """Billing months `[from, until)`; null: until now."""

    from_: str = Field(alias="from", examples=["2023-05"])
    until: str | None


class TariffSummary(Answer):
    """`known` are the billing months whose rates are known."""

    id: str
    title: str
    title_th: str | None
    utility: str | None
    currency: str
    zone: str
    known: list[MonthSpan]


class TariffList(Answer):
    items: list[TariffSummary]


class TariffRates(TariffSummary):
    """What a tariff costs in `month`, in the words of a tariff document; numbers are text.

    The price of a block is that of what lies above the block before, up to `up_to`. `from` and
    `until` are the months of these rates. What the tariff does not have is null or empty.
    """

    number: str | None
    month: str
    from_: str = Field(alias="from")
    until: str | None
    source: str | None = None
    energy: dict[str, Any] | None = None
    spot: str | None = Field(default=None, description="The market whose prices are followed.")
    prorate_days: str | None = None
    demand: list[dict[str, Any]]
    fixed: list[dict[str, Any]]
    surcharges: list[dict[str, Any]]
    taxes: list[dict[str, Any]]
    minimum: str | None = None
    export_credit: dict[str, Any] | None = None
    schedules: dict[str, Any] = Field(description="When which period holds, by name.")
    category: dict[str, Any] | None = Field(
        default=None, description="Where use moves a home between two tariffs."
    )


class WhatIf(BaseModel):
    """An interval of the home's own ledger, its ends on a quarter hour, and the tariffs to try."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Instant = Field(alias="from")
    to: Instant = Field(description="Exclusive.")
    tariffs: list[Annotated[str, Field(max_length=100)]] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Left out: all whose rates of that time are known.",
    )


class Offers(Answer):
    """Cheapest first; a tariff whose rates are not known has `total` null and an `error`."""

    items: list[dict[str, Any]]


class UtilityBill(BaseModel):
    """The lines of the utility's bill that you have, by name; `total` is needed."""

    model_config = ConfigDict(extra="forbid")

    lines: dict[str, Annotated[Decimal, Field(max_digits=20)]] = Field(
        examples=[{"energy_kwh": "345", "energy": "1352.53", "total": "1537.39"}],
        max_length=20,
    )


class ComparedLine(Answer):
    line: str
    unit: str
    utility: Money
    ours: Money
    difference: Money


class Compared(Answer):
    """The utility's lines beside those of our bill; `difference` is theirs - ours."""

    status: Literal["issued", "draft"] = Field(description="Of our bill.")
    lines: list[ComparedLine]
    reason: str
