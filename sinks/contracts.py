"""Homes, what they have agreed with their utility, and the ledger that is billed.

The functions are synchronous, for commands, jobs and routes alike; those that write do so in one
transaction, one at a time a home.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import class_row

from schemas.units import QUARTER_US
from schemas.usage import Quality
from sinks.ledger_columns import ChannelColumns, Counted, ledger_from, meter_columns
from sinks.registry import check_zone, summed_channels
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract, eras
from streams.tariffs.ledger import Ledger
from streams.tariffs.model import Tariff

Role = Literal["grid", "production"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_ID = 200


class HomeError(Exception):
    """What a person asked of a home cannot be done; the text says what to do."""


class UnknownHome(HomeError):
    """Nobody has set up a home of this id."""


class BadHome(HomeError):
    """An id or a zone that a home cannot have."""


class BadContract(HomeError):
    """A contract that does not fit its home or its tariff."""


class NoMeter(HomeError):
    """At some time no channel counts for the home: no bill."""


class AmbiguousMeters(HomeError):
    """Channels that hold the same energy count together: no bill."""


class BadInterval(HomeError):
    """An interval that is empty or does not begin and end on a quarter hour."""


# ---------------------------------------------------------------- homes


@dataclass(frozen=True, slots=True)
class Home:
    """`zone` is that of its days, months and cycles."""

    home_id: str
    name: str | None
    zone: str

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)


def set_home(
    conn: psycopg.Connection[Any],
    home_id: str,
    *,
    name: str | None = None,
    zone: str | None = None,
) -> Home:
    """Set up a home, or change it; None leaves what is. A new one is of Asia/Bangkok.

    Raises UnknownZone, and BadHome for a zone that its contracts are not of.
    """
    if not home_id or len(home_id) > _LONGEST_ID or not home_id.isprintable():
        raise BadHome(f"{home_id!r:.60} cannot be a home's id; give a short printable text")
    if zone is not None:
        check_zone(zone)
    with conn.transaction(), conn.cursor(row_factory=class_row(Home)) as cursor:
        before = cursor.execute(_FIND_HOME + b" FOR UPDATE", [home_id]).fetchone()
        if before and zone not in (None, before.zone) and contracts(conn, home_id):
            raise BadHome(
                f"the tariffs of home {home_id!r} are of {before.zone}; "
                "remove its contracts before you set another zone"
            )
        home = cursor.execute(_SET_HOME, (home_id, name, zone, name, zone)).fetchone()
    assert home is not None
    return home


_FIND_HOME = b"SELECT home_id, name, zone FROM home WHERE home_id = %s"
_SET_HOME = """
    INSERT INTO home (home_id, name, zone) VALUES (%s, %s, coalesce(%s, 'Asia/Bangkok'))
    ON CONFLICT (home_id) DO UPDATE
    SET name = coalesce(%s, home.name), zone = coalesce(%s, home.zone)
    RETURNING home_id, name, zone"""


def find_home(conn: psycopg.Connection[Any], home_id: str, *, lock: bool = False) -> Home:
    """The home of this id; `lock` keeps other writers of this home waiting.

    Raises UnknownHome.
    """
    query = _FIND_HOME + b" FOR UPDATE" * lock
    with conn.cursor(row_factory=class_row(Home)) as cursor:
        found = cursor.execute(query, [home_id.replace("\0", "")]).fetchone()
    if found is None:
        raise UnknownHome(
            f"no home {home_id!r:.60} is set up; `meterstream home set HOME` does it, "
            "with the home id of its devices"
        )
    return found


def list_homes(conn: psycopg.Connection[Any]) -> list[Home]:
    with conn.cursor(row_factory=class_row(Home)) as cursor:
        return cursor.execute("SELECT home_id, name, zone FROM home ORDER BY home_id").fetchall()


# ---------------------------------------------------------------- contracts


def set_contract(
    conn: psycopg.Connection[Any], home_id: str, contract: Contract, catalogue: Catalogue
) -> None:
    """Add the contract, or replace the one that begins on the same day.

    Raises UnknownHome, UnknownTariff and BadContract.
    """
    with conn.transaction():
        home = find_home(conn, home_id, lock=True)
        category = catalogue.category(contract.tariff_id)
        _check_tariff_zone(home, catalogue.tariff(contract.tariff_id))
        if not 1970 <= contract.valid_from.year < 2200:
            raise BadContract(f"{contract.valid_from} is no beginning; give a day of 1970 to 2199")
        if not 1 <= contract.cycle_day <= 31:
            raise BadContract(f"the cycle day {contract.cycle_day} is no day; give 1 to 31")
        if contract.ampere_a is not None and not 0 < contract.ampere_a < 100_000:
            raise BadContract(f"{contract.ampere_a} A is no meter; give its ampere, as 15")
        if category is not None and contract.ampere_a is None:
            raise BadContract(
                f'tariff "{contract.tariff_id}" depends on the size of the meter; give its ampere'
            )
        conn.execute(_SET_CONTRACT, {"home_id": home_id, **asdict(contract)})
        keep_eras(conn, home_id)


_SET_CONTRACT = """
    INSERT INTO contract AS c (home_id, valid_from, tariff_id, cycle_day, ampere_a)
    VALUES (%(home_id)s, %(valid_from)s, %(tariff_id)s, %(cycle_day)s, %(ampere_a)s)
    ON CONFLICT (home_id, valid_from) DO UPDATE
    SET tariff_id = excluded.tariff_id, cycle_day = excluded.cycle_day,
        ampere_a = excluded.ampere_a, set_at = now()
    WHERE (c.tariff_id, c.cycle_day, c.ampere_a)
          IS DISTINCT FROM (excluded.tariff_id, excluded.cycle_day, excluded.ampere_a)"""


def remove_contract(conn: psycopg.Connection[Any], home_id: str, valid_from: date) -> None:
    """Raises UnknownHome, and BadContract if none begins on that day."""
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        gone = conn.execute(
            "DELETE FROM contract WHERE home_id = %s AND valid_from = %s", [home_id, valid_from]
        )
        if not gone.rowcount:
            raise BadContract(
                f"no contract begins on {valid_from}; see `meterstream contract list`"
            )
        keep_eras(conn, home_id)


def keep_eras(conn: psycopg.Connection[Any], home_id: str) -> None:
    """Write down when each of the home's contracts holds, for the view of its cycles."""
    conn.execute("DELETE FROM contract_era WHERE home_id = %s", [home_id])
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO contract_era (home_id, starts_on, first_month, first_end, cycle_day, "
            "tariff_id) VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (
                    home_id,
                    era.starts_on,
                    date(*era.first_month, 1),
                    era.first_end,
                    era.contract.cycle_day,
                    era.contract.tariff_id,
                )
                for era in eras(tuple(contracts(conn, home_id)))
            ],
        )


def contracts(conn: psycopg.Connection[Any], home_id: str) -> list[Contract]:
    """All of a home, by their first day; none for a home that is not set up."""
    with conn.cursor(row_factory=class_row(Contract)) as cursor:
        return cursor.execute(
            "SELECT tariff_id, valid_from, cycle_day, ampere_a FROM contract "
            "WHERE home_id = %s ORDER BY valid_from",
            [home_id],
        ).fetchall()


def _check_tariff_zone(home: Home, tariff: Tariff) -> None:
    """A cycle's midnights are those of the tariff; a home's own would be others."""
    if tariff.zone.key != home.zone:
        raise BadContract(
            f'tariff "{tariff.id}" is of {tariff.zone.key}, home {home.home_id!r} of {home.zone}; '
            f"set the home's zone to {tariff.zone.key}, or choose a tariff of {home.zone}"
        )


# ---------------------------------------------------------------- the ledger of a home


@dataclass(frozen=True, slots=True)
class HomeLedger:
    """The quarter hours of a home's meters, and how far they can be trusted.

    `quality` is the worst of the meters (`schemas.usage.Quality`; `GAP` where one has no row),
    `complete` whether the stream is done with all of them. `changed_at`: of the newest row; None
    without rows.
    """

    ledger: Ledger
    quality: NDArray[np.int8]
    complete: NDArray[np.bool_]
    changed_at: datetime | None

    @property
    def incomplete_quarters(self) -> int:
        return int(np.count_nonzero(~self.complete))

    def energy_by_quality_uwh(self) -> dict[Quality, int]:
        """Adds up to the whole energy; a quality that no quarter hour has is left out."""
        return {
            quality: int(self.ledger.energy_uwh[self.quality == quality].sum())
            for quality in self._qualities()
        }

    def quarters_by_quality(self) -> dict[Quality, int]:
        return {
            quality: int(np.count_nonzero(self.quality == quality)) for quality in self._qualities()
        }

    def _qualities(self) -> list[Quality]:
        return [Quality(int(number)) for number in np.unique(self.quality)]


def ledger_of(
    conn: psycopg.Connection[Any],
    home_id: str,
    start: datetime,
    end: datetime,
    role: Role = "grid",
) -> HomeLedger:
    """The sum of the home's meters of `role` over the quarter hours of `[start, end)`.

    Raises BadInterval; NoMeter where at some time of it no channel counts; AmbiguousMeters where
    one counts beside its own parts.
    """
    start, end = _interval(start, end)
    found = meter_columns(conn, home_id, role, start, end)
    check_meters(home_id, role, start, end, [one.counted for one in found])
    return _sum(start, end, found)


def production_of(
    conn: psycopg.Connection[Any], home_id: str, start: datetime, end: datetime
) -> HomeLedger | None:
    """What the home's own plant made; nothing while no channel counted. None: it has no plant.

    Raises BadInterval and AmbiguousMeters.
    """
    start, end = _interval(start, end)
    found = meter_columns(conn, home_id, "production", start, end)
    for low, valid in _valid_together(start, end, [one.counted for one in found]):
        check_parts(home_id, [(m.device_id, m.channel) for m in valid], low)
    return _sum(start, end, found) if found else None


def _sum(start: datetime, end: datetime, found: Sequence[ChannelColumns]) -> HomeLedger:
    first, *others = found
    energy, export = first.energy_uwh, first.export_uwh
    quality, complete = first.quality, first.complete
    for other in others:
        energy, export = energy + other.energy_uwh, export + other.export_uwh
        quality, complete = np.maximum(quality, other.quality), complete & other.complete
    return HomeLedger(
        ledger_from(start, end, energy, export),
        quality,
        complete,
        max((one.changed_at for one in found if one.changed_at is not None), default=None),
    )


def check_meters(
    home_id: str, role: Role, start: datetime, end: datetime, meters: Sequence[Counted]
) -> None:
    """Raises NoMeter and AmbiguousMeters, as `ledger_of` does, for these counted channels."""
    for low, valid in _valid_together(start, end, meters):
        if not valid:
            raise NoMeter(
                f"home {home_id!r} has no {role} meter from {low.isoformat()} on "
                f"(of {start.isoformat()} to {end.isoformat()}); "
                "name its channel with `meterstream meter set`"
            )
        check_parts(home_id, [(m.device_id, m.channel) for m in valid], low)


def _valid_together(
    start: datetime, end: datetime, meters: Sequence[Counted]
) -> Iterator[tuple[datetime, list[Counted]]]:
    """From when on which meters count, within `[start, end)`."""
    edges = sorted({start, end, *(m.low for m in meters), *(m.high for m in meters)})
    for low, high in pairwise(edges):
        yield low, [m for m in meters if m.low <= low and m.high >= high]


def check_parts(home_id: str, counted: Sequence[tuple[int, str]], at: datetime) -> None:
    """Raises AmbiguousMeters if of these (device id, channel) one holds another's energy too."""
    for device_id in {device_id for device_id, _ in counted}:
        names = {channel for device, channel in counted if device == device_id}
        twice = sorted(names - set(summed_channels(names)))
        if twice:
            raise AmbiguousMeters(
                f"home {home_id!r}: channel {twice[0]!r} of device {device_id} is a part of "
                f"another that counts too, from {at.isoformat()} on; keep either the whole "
                "or its parts (`meterstream meter remove`)"
            )


def _interval(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The same instants in UTC, where a difference is the time that passes."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if start >= end or _us(start) % QUARTER_US or _us(end) % QUARTER_US:
        raise BadInterval(
            f"{start.isoformat()} to {end.isoformat()} is no interval of the ledger; "
            "give a start before the end, both on a quarter hour"
        )
    return start, end


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
