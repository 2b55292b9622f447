"""The shapes of questions and answers about homes, as OpenAPI tells them.

Energies are decimal strings in kWh, exact.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from api.instants import Instant
from api.models import Answer, QualityName
from streams.tariffs.rating import shortest

Exact = Annotated[Decimal, Field(allow_inf_nan=False), PlainSerializer(shortest, return_type=str)]
"""A number that may be given as a string or a number, and is answered as a string."""
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
RoleName = Literal["grid", "production"]


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


# ---------------------------------------------------------------- homes, contracts, meters


class SetHome(Question):
    """What is left out stays as it is; a new home is of Asia/Bangkok."""

    name: Text | None = None
    zone: Text | None = Field(default=None, examples=["Asia/Bangkok"])


class Home(Answer):
    home_id: str
    name: str | None
    zone: str


class Homes(Answer):
    items: list[Home]


class Contract(Answer):
    """It holds for cycles that begin on `valid_from` or later, until the next one's."""

    valid_from: date
    tariff_id: Text = Field(examples=["mea-1.2"])
    cycle_day: int = Field(default=1, ge=1, le=31, description="Day on which the meter is read.")
    ampere_a: Exact | None = Field(
        default=None, gt=0, max_digits=8, decimal_places=3, description="Size of the meter."
    )


class Contracts(Answer):
    items: list[Contract]


class SetMeter(Question):
    device: Text = Field(description="A name, address or id.")
    channel: Text | None = Field(default=None, description="Default: `total`, or the only one.")
    role: RoleName
    valid_from: Instant | None = Field(
        default=None, description="On a quarter hour. Default: the channel's entry, or since ever."
    )
    valid_to: Instant | None = Field(default=None, description="Default: until further notice.")


class Meter(Answer):
    device_id: int
    address: str
    device_name: str | None
    channel: str
    role: RoleName
    valid_from: datetime
    valid_to: datetime | None


class Meters(Answer):
    items: list[Meter]


class UtilityReading(Answer):
    """Registers of the utility's own meter."""

    read_at: Instant
    import_kwh: Exact = Field(ge=0, max_digits=18, decimal_places=9)
    export_kwh: Exact | None = Field(default=None, ge=0, max_digits=18, decimal_places=9)
    is_new_meter: bool = Field(
        default=False, description="The first reading of a meter that was put in."
    )


class Compared(Answer):
    """`difference_kwh` is the utility's less ours, `percent` of the utility's."""

    utility_kwh: Exact
    ours_kwh: Exact
    difference_kwh: Exact
    higher: Literal["utility", "ours", "neither"]
    percent: Exact | None


class Difference(Answer):
    """Two readings that follow each other, and our ledger over the quarter hours nearest to them.

    Without a ledger `import` is null and `missing` says why.
    """

    start: datetime
    end: datetime
    import_: Compared | None = Field(alias="import")
    export: Compared | None
    unmeasured_quarters: int
    incomplete_quarters: int
    missing: str | None


class UtilityReadings(Answer):
    items: list[UtilityReading]
    differences: list[Difference]


# ---------------------------------------------------------------- usage and analysis


class HomeUsageRow(Answer):
    """One bucket `[start, end)`, the sum of its quarter hours."""

    start: datetime
    end: datetime
    label: str = Field(examples=["2026-02"], description="Its day, month, year or billing month.")
    energy_kwh: Exact
    export_kwh: Exact
    production_kwh: Exact | None = Field(description="Null in a home without a plant.")
    max_kw: Exact = Field(description="The greatest 15-minute demand.")
    quality: QualityName = Field(
        description="The worst of its complete quarter hours, `provisional` without any."
    )
    incomplete_quarters: int


class HomeUsagePage(Answer):
    home_id: str
    zone: str
    bucket: Literal["15m", "1d", "cycle", "1mo", "1y"]
    items: list[HomeUsageRow]
    utility: list[Difference]


class _Analysis(Answer):
    home_id: str
    start: datetime
    end: datetime


class DemandSpan(Answer):
    start: datetime
    end: datetime
    label: str


class Demand(Answer):
    span: DemandSpan
    energy_kwh: Exact
    max_kw: Exact
    max_at: datetime
    load_factor: Exact | None


class DemandAnalysis(_Analysis):
    zone: str
    whole: Demand
    months: list[Demand]


class Part(Answer):
    name: str
    energy_kwh: Exact
    share: Exact | None
    mean_kw: Exact | None


class PeakAnalysis(_Analysis):
    zone: str
    hours: list[Part]
    weekdays: list[Part]
    busiest_hour: str
    busiest_weekday: str
    periods: list[Part] | None = Field(
        description="Of the tariff: on_peak, off_peak; `any` where it does not tell the time."
    )
    periods_missing: str | None


class Circuit(Answer):
    device_id: int
    called: str
    channel: str
    energy_kwh: Exact
    share: Exact | None = Field(description="Of what the home's grid meters counted.")
    max_kw: Exact
    max_at: datetime


class CircuitAnalysis(_Analysis):
    circuits: list[Circuit]


class Factor(Answer):
    g_per_kwh: Exact
    source: str


class MonthCarbon(Answer):
    month: str
    energy_kwh: Exact
    factor: Factor
    carbon_g: Exact


class CarbonAnalysis(_Analysis):
    zone: str
    region: str
    months: list[MonthCarbon]
    carbon_g: Exact


class SolarAnalysis(_Analysis):
    production_kwh: Exact
    import_kwh: Exact
    export_kwh: Exact
    self_use_kwh: Exact
    consumption_kwh: Exact
    self_use_share: Exact | None
    self_sufficiency: Exact | None
    unexplained_export_kwh: Exact
