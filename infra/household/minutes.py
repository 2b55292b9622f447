"""From lines to minutes: every row an instant, a power or a gap.

The files count uniform minutes by a wall clock. The zone is applied to their first row only, and
every later row lies as many minutes behind it as its wall clock says: a clock that is put forward
in spring moves nothing. A row that is not there is no row, its minute passes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple

from infra.household.errors import FileRefused
from infra.household.layouts import (
    MOST_POWER_W,
    MOST_VOLTAGE_V,
    Layout,
    columns_of,
)
from infra.household.lines import read_lines
from schemas.units import MINUTE_US

_MISSING = frozenset({"", "?"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_ONE = datetime(1, 1, 1)  # noqa: DTZ001 - a wall clock has no zone
_DAY_ONE_ORDINAL_MINUTES = 1440


class Minute(NamedTuple):
    """A row: the mean power of `[start_us, start_us + 60 s)`, None where the file has a gap."""

    line: int
    start_us: int
    power_w: float | None
    voltage_v: float | None


@dataclass
class FileReport:
    """What a reading of a file came to; whole when the rows have been used up.

    `rows`: those with a place in time, gaps too. `missing`: rows that say their value is missing.
    `absent`: minutes between first and last without a row. `absurd`: rows whose value cannot be a
    household's power; they are gaps. `warnings` are for people.
    """

    rows: int = 0
    missing: int = 0
    absent: int = 0
    absurd: int = 0
    cut_line: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def measured(self) -> int:
        return self.rows - self.missing - self.absurd


def read_file(path: Path, layout: Layout, zone: tzinfo, report: FileReport) -> Iterator[Minute]:
    """The rows of a file. Raises FileRefused; the file's name stands in front of what is wrong."""
    lines = read_lines(path, report.warnings.append)
    try:
        yield from read_minutes(lines, layout, zone, report)
    except FileRefused as error:
        text = str(error)
        raise FileRefused(text if text.startswith(str(path)) else f"{path}: {text}") from error


def read_minutes(
    lines: Iterable[tuple[str, bool]], layout: Layout, zone: tzinfo, report: FileReport
) -> Iterator[Minute]:
    """The rows of a file's lines (text, whether its end was there), in order of time.

    A last line that was cut is reported and left out. Raises FileRefused for an unknown layout,
    and for a row in the middle that is none, with its line number and what to do.
    """
    numbered = enumerate(lines, start=1)
    header = next(numbered, None)
    if header is None:
        raise FileRefused(f"the file is empty; a {layout.name} file has {layout.expected}")
    columns = columns_of(layout, header[1][0])
    wall_minutes, separator, count = layout.wall_minutes, columns.separator, columns.count
    first, factor = columns.first, layout.watts_per_unit
    origin_us = offset = last = 0
    broken: tuple[int, str] | None = None  # a bad line, until it is known whether it is the last
    for number, (line, ended) in numbered:
        if broken is not None:
            if not line.strip():
                continue
            raise FileRefused(_remedy(*broken, layout))
        if not line.strip():
            continue
        fields = line.split(separator)
        try:
            if len(fields) != count:
                raise ValueError(f"it has {len(fields)} columns where the first line has {count}")
            at = wall_minutes(fields[first : first + 2])
            power = _number(fields[columns.power])
            voltage = None if columns.voltage is None else _number(fields[columns.voltage])
        except ValueError as error:
            broken = number, str(error)
            if not ended:
                break
            continue
        if report.rows == 0:
            offset, last = at, at - 1
            origin_us = _instant_us(at, zone)
        elif at <= last:
            raise FileRefused(
                f"line {number}: {line[:60]!r} is not after the row before it; the file must "
                "count uniform minutes, each once: sort it and remove rows that are there twice"
            )
        report.rows += 1
        report.absent += at - last - 1
        last = at
        if power is None:
            report.missing += 1
        else:
            power = round(power * factor, 6)
            if not 0 <= power <= MOST_POWER_W:
                power = None
                report.absurd += 1
                if report.absurd == 1:
                    report.warnings.append(
                        f"line {number}: {fields[columns.power]!r} cannot be a household's power; "
                        "it and others like it are gaps"
                    )
        if voltage is not None and not 0 <= voltage <= MOST_VOLTAGE_V:
            voltage = None
        if not ended and columns.power == count - 1:
            report.warnings.append(f"line {number} is the last and has no end; taken as whole")
        yield Minute(number, origin_us + (at - offset) * MINUTE_US, power, voltage)
    if broken is not None:
        if report.rows == 0:
            raise FileRefused(_remedy(*broken, layout))
        report.cut_line = broken[0]
        report.warnings.append(f"line {broken[0]}, the last, is cut and was skipped ({broken[1]})")
    elif report.rows == 0:
        raise FileRefused("the file has no rows behind its first line; fetch it again")


def _number(text: str) -> float | None:
    """None where the file says that the value is missing; NaN is a value, an absurd one."""
    if text in _MISSING:
        return None
    try:
        return float(text)
    except ValueError:
        if text.strip() in _MISSING:
            return None
        raise ValueError(f"{text[:40]!r} is no number") from None


def _instant_us(wall_minutes: int, zone: tzinfo) -> int:
    """The instant of the first row, to which alone the zone is applied."""
    wall = _DAY_ONE + timedelta(minutes=wall_minutes - _DAY_ONE_ORDINAL_MINUTES)
    return (wall.replace(tzinfo=zone).astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def _remedy(number: int, what: str, layout: Layout) -> str:
    return (
        f"line {number}: not a row: {what}; mend or remove the line "
        f"(a {layout.name} file has {layout.expected})"
    )
