"""What somebody read from the utility's own meter, beside what ours counted meanwhile."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from schemas.usage import Quality
from sinks.contracts import HomeError, find_home, ledger_of
from streams.tariffs.month import QUARTER
from streams.tariffs.usage import kwh_of, uwh_of

Higher = Literal["utility", "ours", "neither"]
MOST_KWH = Decimal(10) ** 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadReading(HomeError):
    """A reading that cannot have been read."""


@dataclass(frozen=True, slots=True)
class UtilityReading:
    """Registers of the utility's meter; `is_new_meter`: the first of one that was put in."""

    read_at: datetime
    import_kwh: Decimal
    export_kwh: Decimal | None = None
    is_new_meter: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """One direction: `difference_kwh` is the utility's less ours, in percent of the utility's."""

    utility_kwh: Decimal
    ours_kwh: Decimal
    difference_kwh: Decimal
    higher: Higher
    percent: Decimal | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two readings that follow each other, and our ledger over the quarter hours nearest to them.

    `unmeasured_quarters` of ours hold no or not all energy. Without a ledger `import_` and
    `export` are None and `missing` says why.
    """

    start: datetime
    end: datetime
    import_: Compared | None
    export: Compared | None
    unmeasured_quarters: int
    incomplete_quarters: int
    missing: str | None = None


def enter_reading(
    conn: psycopg.Connection[Any], home_id: str, reading: UtilityReading, now: datetime
) -> None:
    """Keep a reading, or correct the one of that instant.

    Raises UnknownHome, BadUsage for a number that is no energy, and BadReading for one of the
    future, below the one before or above the one after.
    """
    for energy_kwh in (reading.import_kwh, reading.export_kwh):
        if energy_kwh is not None and not energy_kwh <= MOST_KWH:
            raise BadReading(f"a register does not hold {energy_kwh} kWh; give what it shows")
        if energy_kwh is not None:
            uwh_of(energy_kwh)
    if reading.read_at > now:
        raise BadReading(f"{reading.read_at.isoformat()} is yet to come; give when it was read")
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        others = [one for one in readings(conn, home_id) if one.read_at != reading.read_at]
        for before, after in pairwise(sorted([*others, reading], key=lambda one: one.read_at)):
            if reading in (before, after) and not after.is_new_meter:
                _check_step("import", before, after, before.import_kwh, after.import_kwh)
                _check_step("export", before, after, before.export_kwh, after.export_kwh)
        conn.execute(
            _ENTER,
            (
                home_id,
                reading.read_at,
                reading.import_kwh,
                reading.export_kwh,
                reading.is_new_meter,
            ),
        )


_ENTER = """
    INSERT INTO utility_reading AS u (home_id, read_at, import_kwh, export_kwh, is_new_meter)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (home_id, read_at) DO UPDATE
    SET import_kwh = excluded.import_kwh, export_kwh = excluded.export_kwh,
        is_new_meter = excluded.is_new_meter, entered_at = now()
    WHERE (u.import_kwh, u.export_kwh, u.is_new_meter)
          IS DISTINCT FROM (excluded.import_kwh, excluded.export_kwh, excluded.is_new_meter)"""


def remove_reading(conn: psycopg.Connection[Any], home_id: str, read_at: datetime) -> None:
    """Raises UnknownHome, and BadReading if none was entered for that instant."""
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        gone = conn.execute(
            "DELETE FROM utility_reading WHERE home_id = %s AND read_at = %s", [home_id, read_at]
        )
        if not gone.rowcount:
            raise BadReading(f"nothing was read at {read_at.isoformat()}; see the list of readings")


def readings(conn: psycopg.Connection[Any], home_id: str) -> list[UtilityReading]:
    """All of a home, oldest first."""
    with conn.cursor(row_factory=class_row(UtilityReading)) as cursor:
        return cursor.execute(
            "SELECT read_at, import_kwh, export_kwh, is_new_meter FROM utility_reading "
            "WHERE home_id = %s ORDER BY read_at",
            [home_id],
        ).fetchall()


def differences(
    conn: psycopg.Connection[Any],
    home_id: str,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[Difference]:
    """Each two readings of one meter that follow each other and touch `[start, end)`."""
    return [
        _difference(conn, home_id, before, after)
        for before, after in _pairs(readings(conn, home_id))
        if (start is None or after.read_at > start) and (end is None or before.read_at < end)
    ]


def _pairs(
    entered: Iterable[UtilityReading],
) -> Iterable[tuple[UtilityReading, UtilityReading]]:
    return (pair for pair in pairwise(entered) if not pair[1].is_new_meter)


def _difference(
    conn: psycopg.Connection[Any], home_id: str, before: UtilityReading, after: UtilityReading
) -> Difference:
    start, end = _nearest_quarter(before.read_at), _nearest_quarter(after.read_at)
    try:
        ours = ledger_of(conn, home_id, start, end)
    except HomeError as error:
        return Difference(before.read_at, after.read_at, None, None, 0, 0, str(error))
    export = None
    if before.export_kwh is not None and after.export_kwh is not None:
        export = _compared(after.export_kwh - before.export_kwh, ours.ledger.export_uwh.sum())
    return Difference(
        before.read_at,
        after.read_at,
        _compared(after.import_kwh - before.import_kwh, ours.ledger.energy_uwh.sum()),
        export,
        ours.quarters_by_quality().get(Quality.GAP, 0),
        ours.incomplete_quarters,
    )


def _compared(utility_kwh: Decimal, ours_uwh: int) -> Compared:
    ours_kwh = kwh_of(int(ours_uwh))
    difference_kwh = utility_kwh - ours_kwh
    higher: Higher = "neither"
    if difference_kwh:
        higher = "utility" if difference_kwh > 0 else "ours"
    percent = None
    if utility_kwh:
        percent = (100 * difference_kwh / utility_kwh).quantize(Decimal("0.01"))
    return Compared(utility_kwh, ours_kwh, difference_kwh, higher, percent)


def _nearest_quarter(at: datetime) -> datetime:
    """Half a quarter hour counts up, as in the view `home_utility_difference`."""
    return _EPOCH + (at + QUARTER / 2 - _EPOCH) // QUARTER * QUARTER


def _check_step(
    name: str,
    before: UtilityReading,
    after: UtilityReading,
    before_kwh: Decimal | None,
    after_kwh: Decimal | None,
) -> None:
    if before_kwh is not None and after_kwh is not None and after_kwh < before_kwh:
        raise BadReading(
            f"{name} of {after_kwh} kWh at {after.read_at.isoformat()} is below the {before_kwh} "
            f"kWh of {before.read_at.isoformat()}; correct one of them, or say that the meter is "
            "a new one"
        )
