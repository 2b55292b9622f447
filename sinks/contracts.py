"""Homes, what they have agreed with their utility, and the ledger that is billed.

The functions are synchronous, for commands, jobs and routes alike; those that write do so in one
transaction, one at a time a home.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import args_row, class_row

from schemas.units import QUARTER_US
from schemas.usage import Quality
from sinks.registry import check_zone, summed_channels
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract
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
        if not 1 <= contract.cycle_day <= 31:
            raise BadContract(f"the cycle day {contract.cycle_day} is no day; give 1 to 31")
        if contract.ampere_a is not None and not 0 < contract.ampere_a < 100_000:
            raise BadContract(f"{contract.ampere_a} A is no meter; give its ampere, as 15")
        if category is not None and contract.ampere_a is None:
            raise BadContract(
                f'tariff "{contract.tariff_id}" depends on the size of the meter; give its ampere'
            )
        others = [one for one in contracts(conn, home_id) if one.valid_from != contract.valid_from]
        for other in others:
            if other.cycle_day != contract.cycle_day:
                raise BadContract(
                    f"the home's contract from {other.valid_from} has cycle day "
                    f"{other.cycle_day}: with {contract.cycle_day} some days would be billed "
                    f"twice or never; give {other.cycle_day}, or remove the other contract first"
                )
        conn.execute(_SET_CONTRACT, {"home_id": home_id, **asdict(contract)})


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


class _Meter(NamedTuple):
    device_id: int
    channel: str
    low: datetime
    high: datetime


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
    _check_meters(home_id, role, start, end, _meters_within(conn, home_id, role, start, end))
    found, always_metered = _read_ledger(conn, home_id, start, end, role)
    if not always_metered:
        raise NoMeter(f"the meters of home {home_id!r} have just changed; ask once more")
    return found


def production_of(
    conn: psycopg.Connection[Any], home_id: str, start: datetime, end: datetime
) -> HomeLedger | None:
    """What the home's own plant made; nothing while no channel counted. None: it has no plant.

    Raises BadInterval and AmbiguousMeters.
    """
    start, end = _interval(start, end)
    meters = _meters_within(conn, home_id, "production", start, end)
    for low, valid in _valid_together(start, end, meters):
        check_parts(home_id, [(m.device_id, m.channel) for m in valid], low)
    return _read_ledger(conn, home_id, start, end, "production")[0] if meters else None


def _read_ledger(
    conn: psycopg.Connection[Any], home_id: str, start: datetime, end: datetime, role: Role
) -> tuple[HomeLedger, bool]:
    """The ledger, and whether a meter counted at each of its quarter hours."""
    rows = conn.execute(
        _LEDGER, {"home_id": home_id, "role": role, "start": start, "end": end}
    ).fetchall()
    columns = np.array([row[:5] for row in rows], np.int64).T
    energy, export, quality, complete, metered = map(np.ascontiguousarray, columns)
    starts = _us(start) + np.arange(len(rows), dtype=np.int64) * QUARTER_US
    found = HomeLedger(
        Ledger.of_columns(start, end, starts, energy, export),
        quality.astype(np.int8),
        complete.astype(np.bool_),
        max((row[5] for row in rows if row[5] is not None), default=None),
    )
    return found, bool(metered.all())


# A quarter hour without a row is complete once the stream has passed it and nothing waits to be
# rolled up: its channel was silent.
_LEDGER = f"""
    WITH meter AS MATERIALIZED (
        SELECT h.channel_id, h.valid_from, coalesce(h.valid_to, 'infinity') AS valid_to,
               s.complete_until
        FROM home_meter h LEFT JOIN channel_state s USING (channel_id)
        WHERE h.home_id = %(home_id)s AND h.role = %(role)s
          AND h.valid_from < %(end)s AND coalesce(h.valid_to, 'infinity') > %(start)s
    ), marked AS MATERIALIZED (
        SELECT DISTINCT channel_id, quarter_hour FROM rollup_dirty
        WHERE channel_id IN (SELECT channel_id FROM meter)
          AND quarter_hour >= %(start)s AND quarter_hour < %(end)s
    )
    SELECT coalesce(sum(u.energy_uwh), 0)::bigint, coalesce(sum(u.export_uwh), 0)::bigint,
           max(CASE WHEN m.channel_id IS NULL THEN 0 ELSE coalesce(u.quality, {Quality.GAP:d})
               END)::int,
           bool_and(m.channel_id IS NULL
                    OR (d.channel_id IS NULL
                        AND coalesce(u.complete, m.complete_until >= q.at + interval '15 minutes',
                                     false)))::int,
           bool_and(m.channel_id IS NOT NULL)::int, max(u.changed_at)
    FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '15 minutes',
                         interval '15 minutes') AS q (at)
    LEFT JOIN meter m ON q.at >= m.valid_from AND q.at < m.valid_to
    LEFT JOIN usage_15m u ON u.channel_id = m.channel_id AND u.window_start = q.at
                         AND u.window_start >= %(start)s AND u.window_start < %(end)s
    LEFT JOIN marked d ON d.channel_id = m.channel_id AND d.quarter_hour = q.at
    GROUP BY q.at ORDER BY q.at"""


def _meters_within(
    conn: psycopg.Connection[Any], home_id: str, role: Role, start: datetime, end: datetime
) -> list[_Meter]:
    with conn.cursor(row_factory=args_row(_Meter)) as cursor:
        return cursor.execute(
            """
            SELECT c.device_id, c.name, greatest(h.valid_from, %(start)s),
                   least(coalesce(h.valid_to, 'infinity'), %(end)s)
            FROM home_meter h JOIN channel c USING (channel_id)
            WHERE h.home_id = %(home_id)s AND h.role = %(role)s
              AND h.valid_from < %(end)s AND coalesce(h.valid_to, 'infinity') > %(start)s""",
            {"home_id": home_id, "role": role, "start": start, "end": end},
        ).fetchall()


def _check_meters(
    home_id: str, role: Role, start: datetime, end: datetime, meters: Sequence[_Meter]
) -> None:
    for low, valid in _valid_together(start, end, meters):
        if not valid:
            raise NoMeter(
                f"home {home_id!r} has no {role} meter from {low.isoformat()} on "
                f"(of {start.isoformat()} to {end.isoformat()}); "
                "name its channel with `meterstream meter set`"
            )
        check_parts(home_id, [(m.device_id, m.channel) for m in valid], low)


def _valid_together(
    start: datetime, end: datetime, meters: Sequence[_Meter]
) -> Iterator[tuple[datetime, list[_Meter]]]:
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
