"""What the routes of spot prices and emission factors take and give."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer

from api.home_models import Exact, Question, Text
from api.instants import Instant
from api.models import Answer
from streams.tariffs.rating import plain

FROM: Any = Field(default=None, alias="from", description="Default: a day before `to`.")
TO: Any = Field(default=None, description="Exclusive. Default: now.")
Price = Annotated[Decimal, Field(allow_inf_nan=False), PlainSerializer(plain, return_type=str)]


class SpotPrice(Answer):
    """Per kWh; `minutes` is the length of the market's slot that the quarter hour lies in."""

    starts_at: datetime
    price: Price
    currency: str
    minutes: int
    revision: int


class SpotPrices(Answer):
    market: str
    items: list[SpotPrice]


class GivenPrice(Question):
    starts_at: Instant
    price: Annotated[Decimal, Field(allow_inf_nan=False, ge=-10_000, le=10_000)]


class SetSpotPrices(Question):
    """The prices of whole civil days of `zone`: 92, 96 or 100 a day of quarter hours."""

    currency: str = Field(pattern=r"^[A-Z]{3}$", examples=["EUR"])
    zone: Text = Field(examples=["Europe/Stockholm"])
    minutes: Literal[15, 30, 60] = 15
    per: Literal["kwh", "mwh"] = "kwh"
    prices: list[GivenPrice] = Field(min_length=1, max_length=93 * 100)


class KeptSpotPrices(Answer):
    new: int = Field(description="Quarter hours that had no price.")
    corrected: int = Field(description="Quarter hours that have another price now.")


class EmissionFactor(Answer):
    region: Text = Field(examples=["TH"])
    month: str = Field(max_length=7, examples=["2026-02"])
    g_per_kwh: Exact = Field(description="Grams of CO2 equivalent.", max_digits=12)
    source: Annotated[str, Field(min_length=1, max_length=500)] = Field(description="Who says so.")


class EmissionFactors(Answer):
    items: list[EmissionFactor]
