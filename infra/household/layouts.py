"""The columns of the two kinds of files, and what their fields mean. Pure.

REFIT (DeviceScope's repackaging): mean W of a minute, `2014-03-01 00:00:00`.
UCI (individual household electric power consumption): kW, `1/1/07` or `30/6/2007`, day first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from infra.household.errors import FileRefused

# A household's connection; above it stands a broken sensor or another unit.
MOST_POWER_W = 100_000.0
MOST_VOLTAGE_V = 1_000.0
_YEARS = range(1971, 2100)

WallMinutes = Callable[[list[str]], int]
"""Minutes of the wall clock since 0001-01-01 00:00. Raises ValueError, KeyError or IndexError."""


@dataclass(frozen=True)
class Layout:
    """Where a kind of file has its values: `expected` is for people."""

    name: str
    expected: str
    headers: tuple[tuple[str, ...], ...]
    more_columns: bool  # after those of the header, whatever their names
    separators: str
    wall_minutes: WallMinutes
    power: str
    watts_per_unit: float
    voltage: str | None = None


@dataclass(frozen=True)
class Columns:
    """A layout as one file has it."""

    layout: Layout
    separator: str
    count: int
    first: int  # of the time's columns
    power: int
    voltage: int | None


def columns_of(layout: Layout, header: str) -> Columns:
    """Find the columns of a file by its first line.

    Raises FileRefused for a layout that is not known, with what was expected.
    """
    for separator in layout.separators:
        names = [name.strip().strip('"') for name in header.split(separator)]
        for known in layout.headers:
            same = tuple(names[: len(known)]) == known
            if same and (layout.more_columns or len(names) == len(known)):
                return Columns(
                    layout,
                    separator,
                    len(names),
                    names.index("Time" if "Date" not in names else "Date"),
                    names.index(layout.power),
                    names.index(layout.voltage) if layout.voltage else None,
                )
    raise FileRefused(
        f"line 1: the columns are {header[:200]!r}; a {layout.name} file has {layout.expected}"
    )


@lru_cache(maxsize=64)
def _iso_day(text: str) -> int:
    return _ordinal(date.fromisoformat(text))


@lru_cache(maxsize=64)
def _european_day(text: str) -> int:
    """`1/1/07`, `30/6/2007`: day, month, year; years of two digits are of this century."""
    day, month, year = text.split("/")
    if len(year) == 2:
        year = "20" + year
    return _ordinal(date(int(year), int(month), int(day)))


def _ordinal(day: date) -> int:
    if day.year not in _YEARS:
        raise ValueError(f"{day} is no day of a measurement")
    return day.toordinal()


@lru_cache(maxsize=4096)
def _minute_of_day(text: str) -> int:
    hour, minute, *second = text.split(":")
    if second and float(second[0]) != 0:
        raise ValueError(f"{text} is not a whole minute")
    if not (len(second) <= 1 and 0 <= int(hour) < 24 and 0 <= int(minute) < 60):
        raise ValueError(f"{text} is no time of day")
    return int(hour) * 60 + int(minute)


def _refit_minutes(time: list[str]) -> int:
    day, _, minute = time[0].partition(" ")
    return _iso_day(day) * 1440 + _minute_of_day(minute)


def _uci_minutes(time: list[str]) -> int:
    return _european_day(time[0]) * 1440 + _minute_of_day(time[1])


_UCI = (
    "Date", "Time", "Global_active_power", "Global_reactive_power", "Voltage",
    "Global_intensity", "Sub_metering_1", "Sub_metering_2", "Sub_metering_3",
)  # fmt: skip

_LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="refit",
            expected="Time,Aggregate,<appliances…>: a time like 2014-03-01 00:00:00, and W",
            headers=(("Time", "Aggregate"),),
            more_columns=True,
            separators=",",
            wall_minutes=_refit_minutes,
            power="Aggregate",
            watts_per_unit=1.0,
        ),
        Layout(
            name="uci",
            expected=f"[index,]{','.join(_UCI)}: dates like 30/6/2007, and kW",
            headers=(("index", *_UCI), _UCI),
            more_columns=False,
            separators=",;",
            wall_minutes=_uci_minutes,
            power="Global_active_power",
            watts_per_unit=1000.0,
            voltage="Voltage",
        ),
    )
}


def layout_named(name: str) -> Layout:
    """Raises FileRefused for a format that nobody reads."""
    layout = _LAYOUTS.get(name.lower())
    if layout is None:
        raise FileRefused(f"the format {name!r} is not known; known are {', '.join(_LAYOUTS)}")
    return layout
