"""The accounting over what was sent: is it stored, once and unchanged?

What is stored beside that is looked at by `sinks.stored_checks`. The callers hold the transaction:
REPEATABLE READ, so that all tables are seen at one instant.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg

from schemas.homesync import Position
from schemas.reading import VALUE_NAMES
from sinks.copy_block import PG_EPOCH_US

MOST_NAMED = 20
"""So many failures are named; the rest is only counted."""

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong: with which channel or table, when, and what."""

    channel: str
    at: str
    text: str


class SentReading(NamedTuple):
    """A reading as it left its device; `values` are those of `SENT_FIELDS`, as doubles."""

    channel_id: int
    measured_us: int
    seq: int
    values: tuple[float | None, ...]


SENT_FIELDS = (
    "power_w",
    "voltage_v",
    "current_a",
    "frequency_hz",
    "power_factor",
    "import_total_wh",
    "export_total_wh",
)


class Energy(NamedTuple):
    """Of one channel, in whole µWh."""

    import_uwh: int
    export_uwh: int


@dataclass
class Account:
    """What became of the readings that were sent. Energies in µWh, absolute values summed.

    `lost`: acknowledged, and neither refused nor stored with equal values. `duplicates`: stored
    although the same reading (channel, seq) is stored already, or set aside as its contradiction.
    `invented`: stored, and nobody sent it.
    """

    sent: int = 0
    acked: int = 0
    stored: int = 0
    refused: int = 0
    lost: int = 0
    duplicates: int = 0
    invented: int = 0
    windows_difference_uwh: int = 0
    ledger_difference_uwh: int = 0
    failures: list[Failure] = field(default_factory=list)
    most_named: int = MOST_NAMED

    @property
    def ok(self) -> bool:
        return not (
            self.lost
            or self.duplicates
            or self.invented
            or self.windows_difference_uwh
            or self.ledger_difference_uwh
        )

    def _name(self, channel: str, at: datetime | str, text: str) -> None:
        if len(self.failures) < self.most_named:
            told = at if isinstance(at, str) else at.isoformat(timespec="microseconds")
            self.failures.append(Failure(channel, told, text))


_SENT_TABLE = f"""
CREATE TEMP TABLE sent (
    channel_id integer NOT NULL, measured_at timestamptz NOT NULL, seq bigint NOT NULL,
    {", ".join(f"{name} float8" for name in SENT_FIELDS)}
) ON COMMIT DROP
"""
_MARKS = "CREATE TEMP TABLE {} (channel_id integer NOT NULL, seq bigint NOT NULL) ON COMMIT DROP"
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack(">h", -1)
_COLUMNS = 3 + len(SENT_FIELDS)
_HEAD = ">hiiiqiq"
_WHOLE = struct.Struct(_HEAD + "id" * len(SENT_FIELDS)).pack
_WITHOUT_LAST = struct.Struct(_HEAD + "id" * (len(SENT_FIELDS) - 1) + "i").pack


def load_sent(conn: Connection, sent: Iterable[SentReading]) -> None:
    """Put what was sent into a temporary table of this transaction."""
    conn.execute(_SENT_TABLE)
    with conn.cursor() as cursor, cursor.copy("COPY sent FROM STDIN (FORMAT binary)") as copy:
        copy.write(_SIGNATURE)
        for channel_id, measured_us, seq, (a, b, c, d, e, f, g) in sent:
            head = (_COLUMNS, 4, channel_id, 8, measured_us - PG_EPOCH_US, 8, seq)
            if g is None:
                copy.write(_WITHOUT_LAST(*head, 8, a, 8, b, 8, c, 8, d, 8, e, 8, f, -1))
            else:
                copy.write(_WHOLE(*head, 8, a, 8, b, 8, c, 8, d, 8, e, 8, f, 8, g))
        copy.write(_TRAILER)
    conn.execute("CREATE INDEX ON sent (channel_id)")
    conn.execute("ANALYZE sent")


def load_marks(
    conn: Connection, acked: Iterable[tuple[int, int]], refused: Iterable[tuple[int, int]]
) -> None:
    """Likewise up to which (channel_id, seq) is acknowledged, and which were refused."""
    for table, rows in (("acked", acked), ("refused_reading", refused)):
        conn.execute(_MARKS.format(table).encode())
        with conn.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
        conn.execute(f"ANALYZE {table}".encode())


_UNSENT_FIELDS = [name for name in VALUE_NAMES if name not in SENT_FIELDS]
_PAIRS = f"""
CREATE TEMP TABLE pair ON COMMIT DROP AS
SELECT coalesce(s.channel_id, r.channel_id) AS channel_id,
       coalesce(s.measured_at, r.measured_at) AS measured_at,
       coalesce(s.seq, r.seq) AS seq,
       s.channel_id IS NOT NULL AS is_sent, r.channel_id IS NOT NULL AS is_stored,
       ({", ".join(f"s.{name}" for name in SENT_FIELDS)})
           IS NOT DISTINCT FROM ({", ".join(f"r.{name}" for name in SENT_FIELDS)})
           AND num_nonnulls({", ".join(f"r.{name}" for name in _UNSENT_FIELDS)}) = 0 AS is_equal
FROM (SELECT * FROM sent WHERE channel_id = ANY(%(channels)s)) AS s
FULL JOIN (SELECT * FROM readings WHERE channel_id = ANY(%(channels)s)) AS r
ON s.channel_id = r.channel_id AND s.measured_at = r.measured_at AND s.seq = r.seq
"""
_COUNTS = """
SELECT (SELECT count(*) FROM sent WHERE channel_id = ANY(%(channels)s)),
       (SELECT count(*) FROM sent JOIN acked USING (channel_id)
        WHERE channel_id = ANY(%(channels)s) AND sent.seq <= acked.seq),
       (SELECT count(*) FROM readings WHERE channel_id = ANY(%(channels)s)),
       (SELECT count(*) FROM sent JOIN refused_reading USING (channel_id, seq)
        WHERE channel_id = ANY(%(channels)s))
"""
_LOST = """
SELECT p.channel_id, p.measured_at, p.seq, p.is_stored
FROM pair AS p JOIN acked AS a ON a.channel_id = p.channel_id AND p.seq <= a.seq
WHERE p.is_sent AND NOT (p.is_stored AND p.is_equal)
  AND NOT EXISTS (SELECT FROM refused_reading AS x
                  WHERE x.channel_id = p.channel_id AND x.seq = p.seq)
ORDER BY 1, 2
"""
_EXTRA = """
SELECT p.channel_id, p.measured_at, p.seq,
       EXISTS (SELECT FROM sent AS s WHERE s.channel_id = p.channel_id AND s.seq = p.seq)
FROM pair AS p WHERE NOT p.is_sent
UNION ALL
SELECT channel_id, measured_at, seq, true FROM (
    SELECT *, row_number() OVER (PARTITION BY channel_id, measured_at) AS n
    FROM pair WHERE is_sent AND is_stored) AS p
WHERE n > 1
ORDER BY 1, 2
"""
_CONFLICTS = """
SELECT channel_id, measured_at, seq, log_offset FROM reading_conflict
WHERE channel_id = ANY(%(channels)s) ORDER BY 1, 2
"""


def account_of_sent(
    conn: Connection, account: Account, channels: Mapping[int, str], expected: Mapping[int, Energy]
) -> None:
    """Add to `account` how these channels (id → name) stand. `load_sent` and `load_marks`
    have filled the tables.

    `expected` is the energy that each channel's registers rose by.
    """
    ids = {"channels": list(channels)}
    row = conn.execute(_COUNTS, ids).fetchone()
    assert row is not None
    account.sent += row[0]
    account.acked += row[1]
    account.stored += row[2]
    account.refused += row[3]
    conn.execute(_PAIRS, ids)
    for channel, at, seq, stored in conn.execute(_LOST):
        account.lost += 1
        what = "is stored with other values" if stored else "was acknowledged and is not stored"
        account._name(channels[channel], at, f"lost: seq {seq} {what}")
    for channel, at, seq, known in conn.execute(_EXTRA):
        if known:
            account.duplicates += 1
            account._name(channels[channel], at, f"duplicate: seq {seq} is stored once more")
        else:
            account.invented += 1
            account._name(channels[channel], at, f"invented: nobody sent seq {seq}")
    for channel, at, seq, offset in conn.execute(_CONFLICTS, ids):
        account.duplicates += 1
        account._name(
            channels[channel], at, f"duplicate: offset {offset} contradicts it (seq {seq})"
        )
    conn.execute("DROP TABLE pair")
    _account_energy(conn, account, channels, expected)


_ENERGY = """
SELECT channel_id, coalesce(w.import, 0) + coalesce(g.import, 0),
       coalesce(w.export, 0) + coalesce(g.export, 0), coalesce(q.import, 0), coalesce(q.export, 0)
FROM unnest(%(channels)s::integer[]) AS c (channel_id)
LEFT JOIN (SELECT channel_id, sum(energy_uwh) AS import, sum(export_uwh) AS export FROM usage_1m
           WHERE channel_id = ANY(%(channels)s) GROUP BY 1) AS w USING (channel_id)
LEFT JOIN (SELECT channel_id, sum(energy_uwh) AS import, sum(export_uwh) AS export FROM gap_energy
           WHERE channel_id = ANY(%(channels)s) GROUP BY 1) AS g USING (channel_id)
LEFT JOIN (SELECT channel_id, sum(energy_uwh) AS import, sum(export_uwh) AS export FROM usage_15m
           WHERE channel_id = ANY(%(channels)s) GROUP BY 1) AS q USING (channel_id)
"""


def _account_energy(
    conn: Connection, account: Account, channels: Mapping[int, str], expected: Mapping[int, Energy]
) -> None:
    for channel, *sums in conn.execute(_ENERGY, {"channels": list(channels)}):
        wanted = expected.get(channel, Energy(0, 0))
        windows = [int(sums[i]) - wanted[i] for i in (0, 1)]
        ledger = [int(sums[2 + i]) - wanted[i] for i in (0, 1)]
        account.windows_difference_uwh += sum(map(abs, windows))
        account.ledger_difference_uwh += sum(map(abs, ledger))
        for where, off in (("minutes and gaps", windows), ("the ledger", ledger)):
            if any(off):
                account._name(
                    channels[channel],
                    "",
                    f"energy: {where} hold {off[0]:+d} µWh import and {off[1]:+d} µWh export "
                    "against the register",
                )


def other_channels(
    conn: Connection, addresses: Sequence[str], known: Mapping[int, str]
) -> dict[int, str]:
    """Channels of these devices that are not known: whatever is stored of them is invented."""
    rows = conn.execute(
        "SELECT channel_id, address || ' ' || channel.name FROM channel JOIN device "
        "USING (device_id) WHERE address = ANY(%s)",
        [list(addresses)],
    )
    return {channel: name for channel, name in rows if channel not in known}


def refused_positions(conn: Connection, addresses: Sequence[str]) -> list[tuple[str, int]]:
    """(address, seq) of the homesync messages of these devices that were refused."""
    decode = msgspec.json.Decoder(Position).decode
    found = []
    for address, payload in conn.execute(
        "SELECT address, payload FROM refused WHERE address = ANY(%s) AND replayed_at IS NULL",
        [list(addresses)],
    ):
        try:
            found.append((address, decode(payload).seq))
        except msgspec.MsgspecError:
            continue  # not a message of ours
    return found
