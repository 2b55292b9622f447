"""Tariffs of the Utility Rate Database (OpenEI) as documents of ours.

Source: https://apps.openei.org/services/doc/rest/util_rates/ (fields), version 7 and 8. A rate in
URDB counts each period's tiers by that period's own energy of the month, as NREL's SAM does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import groupby
from typing import Any

from streams.tariffs.errors import BadTariff
from streams.tariffs.week import MONTHS, WEEK

_WORKDAYS, _WEEKEND = WEEK[:5], WEEK[5:]
_MEASURED = ("kwh", "kwh/month", None, "")
_UNREAD = {
    "coincidentratestructure": "coincident demand",
    "demandratchetpercentage": "a demand ratchet",
    "fuelAdjustmentsMonthly": "a fuel adjustment by month",
    "annualmincharge": "a minimum of the year",
}


def records_of(name: str, text: str) -> list[Mapping[str, Any]]:
    """The records of a file: one, a list, or an answer of URDB's interface (`items`).

    Numbers with a point are exact decimals. Raises BadTariff where there is no record.
    """
    try:
        parsed = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise BadTariff(f"{name} is no JSON: {error}; correct that place") from error
    found = parsed.get("items", parsed) if isinstance(parsed, Mapping) else parsed
    records = found if isinstance(found, list) else [found]
    if not records or not all(isinstance(one, Mapping) for one in records):
        raise BadTariff(
            f"{name} holds no URDB record; give the JSON of one, or an answer of its interface"
        )
    return records


def id_of(record: Mapping[str, Any]) -> str:
    """What a tariff is called that nobody has named. Raises BadTariff."""
    label = record.get("label")
    if not isinstance(label, str) or not label:
        raise BadTariff("the URDB record has no label; give --id")
    return f"urdb-{label}"


def document_of(record: Mapping[str, Any], *, tariff_id: str, zone: str) -> dict[str, Any]:
    """A tariff document (see model.py) of one URDB record, parsed with `parse_float=Decimal`.

    URDB does not say the zone; sell rates become an export credit if there is but one.
    Raises BadTariff for what it says and we would bill wrongly.
    """
    return _Import(record, tariff_id, zone).document()


class _Import:
    def __init__(self, record: Mapping[str, Any], tariff_id: str, zone: str) -> None:
        self.record = record
        self.tariff_id = tariff_id
        self.zone = zone
        self.schedules: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        for field, what in _UNREAD.items():
            if any(_numbers(self.record.get(field))):
                raise self._bad(field, f"{what} cannot be billed; enter the tariff by hand")
        rates: dict[str, Any] = {
            "from": self._month("startdate") or "1970-01",
            "source": f"URDB {self.record.get('label', 'without label')}",
            "energy": self._prices("energy"),
            "demand": self._demand(),
            "fixed": self._fixed(),
        }
        until = self._month("enddate")
        if until is not None:
            rates["until"] = until
        rates |= self._minimum() | self._export()
        tariff = {
            "title": str(self.record.get("name", self.tariff_id)),
            "utility": str(self.record.get("utility", "unknown")),
            "currency": "USD",
            "zone": self.zone,
            "rates": [rates],
        }
        return {"schedules": self.schedules, "tariffs": {self.tariff_id: tariff}}

    def _prices(self, kind: str) -> dict[str, Any]:
        """Periods and schedule of `energy` or `demand`."""
        structure = self._structure(f"{kind}ratestructure")
        weekday, weekend = (self._grid(f"{kind}{days}schedule") for days in ("weekday", "weekend"))
        windows = [*_windows(weekday, _WORKDAYS), *_windows(weekend, _WEEKEND)]
        return self._scheduled(kind, structure, f"{kind}ratestructure", windows)

    def _demand(self) -> list[dict[str, Any]]:
        charges = []
        for field in ("demandrateunit", "demandunits", "flatdemandunit"):
            if self.record.get(field, "kW") != "kW":
                raise self._bad(field, f"is {self.record[field]!r}; only kW can be")
        if self.record.get("demandratestructure"):
            charges.append({"name": "demand", **self._window(), **self._prices("demand")})
        if self.record.get("flatdemandstructure"):
            structure = self._structure("flatdemandstructure")
            numbers = self._row("flatdemandmonths", self.record.get("flatdemandmonths"), 12)
            windows = [
                {"period": str(number), "months": [month]}
                for month, number in zip(MONTHS, numbers, strict=True)
            ]
            prices = self._scheduled("flat_demand", structure, "flatdemandstructure", windows)
            charges.append({"name": "flat demand", **self._window(), **prices})
        return charges

    def _scheduled(
        self,
        name: str,
        structure: Sequence[Sequence[Mapping[str, Any]]],
        field: str,
        windows: list[dict[str, Any]],
    ) -> dict[str, Any]:
        used = {window["period"] for window in windows}
        absent = sorted(number for number in used if int(number) >= len(structure))
        if absent:
            raise self._bad(field, f"has no period {absent[0]}, but the schedule does; add it")
        periods = {
            number: self._blocks(f"{field}[{number}]", structure[int(number)])
            for number in sorted(used, key=int)
        }
        if len(periods) == 1:
            return {"periods": periods}
        schedule = f"{self.tariff_id} {name}"
        self.schedules[schedule] = {"windows": windows}
        return {"schedule": schedule, "periods": periods}

    def _number(self, field: str, value: object) -> Decimal:
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            number = Decimal("NaN")
        if isinstance(value, bool) or not number.is_finite():
            raise self._bad(field, f"is {value!r:.40}; give a number")
        return number

    def _blocks(self, field: str, tiers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        blocks = []
        for number, tier in enumerate(tiers):
            unit = tier.get("unit")
            if field.startswith("energy") and str(unit or "").lower() not in _MEASURED:
                raise self._bad(f"{field}[{number}]", f"counts in {unit!r}; only kWh a month can")
            if "rate" not in tier and "adj" not in tier:
                raise self._bad(f"{field}[{number}]", "has no rate; add it")
            price = sum(
                (self._number(f"{field}[{number}]", tier.get(part, 0)) for part in ("rate", "adj")),
                Decimal(0),
            )
            block: dict[str, Any] = {"price": price}
            if number < len(tiers) - 1:
                if "max" not in tier:
                    raise self._bad(f"{field}[{number}]", "has no max, but a tier follows; add it")
                block["up_to"] = self._number(f"{field}[{number}].max", tier["max"])
            blocks.append(block)
        return blocks

    def _fixed(self) -> list[dict[str, Any]]:
        charges: list[dict[str, Any]] = []
        monthly = self.record.get("fixedmonthlycharge")
        if monthly is not None:
            charges.append({"price": self._number("fixedmonthlycharge", monthly)})
        charge = self.record.get("fixedchargefirstmeter")
        if charge is not None and monthly is None:
            unit = str(self.record.get("fixedchargeunits", "$/month")).lower()
            if unit not in ("$/month", "$/day"):
                raise self._bad("fixedchargeunits", f"is {unit!r}; only $/month and $/day can be")
            price = self._number("fixedchargefirstmeter", charge)
            charges.append({"price": price, "per": unit.removeprefix("$/")})
        return charges

    def _minimum(self) -> dict[str, Any]:
        minimum = self.record.get("minmonthlycharge", self.record.get("mincharge"))
        unit = str(self.record.get("minchargeunits", "$/month")).lower()
        if minimum and unit != "$/month":
            raise self._bad("minchargeunits", f"is {unit!r}; only $/month can be")
        return {"minimum": self._number("minmonthlycharge", minimum)} if minimum else {}

    def _export(self) -> dict[str, Any]:
        sells = {
            self._number("energyratestructure", tier["sell"])
            for tiers in self.record.get("energyratestructure", ())
            for tier in tiers
            if "sell" in tier
        }
        if len(sells) > 1:
            raise self._bad("energyratestructure", "has several sell rates; only one can be billed")
        return {"export_credit": {"price": sells.pop()}} if sells else {}

    def _window(self) -> dict[str, Any]:
        minutes = self.record.get("demandwindow")
        if minutes is None:
            return {}
        return {"measuring_minutes": int(self._number("demandwindow", minutes))}

    def _structure(self, field: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        structure = self.record.get(field)
        if not structure or not isinstance(structure, list) or not all(structure):
            raise self._bad(field, "has no period or an empty one; give each a tier with a rate")
        for tiers in structure:
            if not isinstance(tiers, list) or not all(isinstance(one, Mapping) for one in tiers):
                raise self._bad(field, "has a period that is no list of tiers; give each one")
        return structure

    def _grid(self, field: str) -> list[list[int]]:
        rows = self.record.get(field)
        if not isinstance(rows, Sequence) or len(rows) != len(MONTHS):
            raise self._bad(field, "is not 12 months of 24 hours; give a period for each hour")
        return [self._row(field, row, 24) for row in rows]

    def _row(self, field: str, row: object, length: int) -> list[int]:
        if not isinstance(row, Sequence) or len(row) != length:
            raise self._bad(field, f"has a row that is not {length} period numbers; complete it")
        if not all(type(number) is int and number >= 0 for number in row):
            raise self._bad(field, "holds what is no period number; use 0, 1, 2, ...")
        return list(row)

    def _month(self, field: str) -> str | None:
        """URDB's dates are UNIX seconds; the billing month they lie in."""
        seconds = self.record.get(field)
        if seconds is None:
            return None
        try:
            at = datetime.fromtimestamp(int(self._number(field, seconds)), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise self._bad(field, f"is {seconds!r:.40}; give UNIX seconds") from error
        return at.strftime("%Y-%m")

    def _bad(self, field: str, what: str) -> BadTariff:
        return BadTariff(f'tariff "{self.tariff_id}": URDB {field}: {what}')


def _windows(grid: Sequence[Sequence[int]], days: Sequence[str]) -> list[dict[str, Any]]:
    """12 x 24 period numbers as windows: one for each run of hours of a month."""
    windows = []
    for month, row in zip(MONTHS, grid, strict=True):
        for number, run in groupby(range(24), key=row.__getitem__):
            hours = list(run)
            windows.append(
                {
                    "period": str(number),
                    "from": f"{hours[0]:02d}:00",
                    "to": f"{hours[-1] + 1:02d}:00",
                    "days": list(days),
                    "months": [month],
                }
            )
    return windows


def _numbers(value: object) -> list[object]:
    """What is not zero or empty within."""
    if isinstance(value, Mapping):
        return [inner for one in value.values() for inner in _numbers(one)]
    if isinstance(value, list | tuple):
        return [inner for one in value for inner in _numbers(one)]
    return [value] if value else []
