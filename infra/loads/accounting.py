"""A swarm's devices in the database, and the accounting of what its record says they sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.swarm.record import Header, Sent
    from infra.swarm.swarm import SwarmSettings
    from sinks.accounting import Account, Energy, SentReading

CHANNELS_AT_ONCE = 500

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how far it is, and how far it goes (0: unknown)."""


def claim_devices(database_url: str, settings: "SwarmSettings") -> dict[int, tuple[int, ...]]:
    """Register the swarm's devices as claimed, and their channels: node → channel ids."""
    import psycopg

    from infra.swarm.meters import CHANNELS

    names = CHANNELS[settings.phases]
    addresses = [settings.address(node) for node in range(settings.devices)]
    with psycopg.connect(database_url) as conn:
        conn.execute(
            """
            INSERT INTO device (address, family, home_id, claimed_at)
            SELECT address, 'homesync', %s, now() FROM unnest(%s::text[]) AS a (address)
            ORDER BY address
            """,
            [settings.home, addresses],
        )
        conn.execute(
            """
            INSERT INTO channel (device_id, name)
            SELECT device_id, n.name FROM device CROSS JOIN unnest(%s::text[]) AS n (name)
            WHERE home_id = %s ORDER BY device_id, n.name
            """,
            [list(names), settings.home],
        )
        rows = conn.execute(
            "SELECT channel_id, address, channel.name FROM channel JOIN device USING (device_id) "
            "WHERE home_id = %s",
            [settings.home],
        ).fetchall()
    ids = {(address, name): channel_id for channel_id, address, name in rows}
    return {
        node: tuple(ids[address, name] for name in names) for node, address in enumerate(addresses)
    }


@dataclass
class _Truth:
    """What a record says, folded: watermarks, first and last reading of each node."""

    acked: dict[int, int]
    first: "dict[int, Sent]"
    last: "dict[int, Sent]"


def account_for(
    database_url: str,
    record: Path,
    channels: dict[int, tuple[int, ...]],
    told: Progress | None = None,
    *,
    most_named: int | None = None,
) -> "Account":
    """Compare a swarm's record with the database; so many failures are named (None: a few)."""
    import psycopg

    from infra.swarm import swarm
    from infra.swarm.meters import CHANNELS
    from infra.swarm.record import read_header
    from sinks import accounting

    header = read_header(record)
    names = CHANNELS[header.phases]
    truth = _Truth({}, {}, {})
    account = accounting.Account(
        most_named=accounting.MOST_NAMED if most_named is None else most_named
    )
    with psycopg.connect(database_url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SET timezone = 'UTC'")
        conn.commit()
        with conn.transaction():
            by_address = {swarm.address(header.home, node): node for node in channels}
            refused = [
                (channel, seq)
                for address, seq in accounting.refused_positions(conn, list(by_address))
                for channel in channels[by_address[address]]
            ]
            sent = list_sent(record, header, channels, truth)
            accounting.load_sent(conn, sent)
            acked = [
                (channel, seq) for node, seq in truth.acked.items() for channel in channels[node]
            ]
            accounting.load_marks(conn, acked, refused)
            labels = {
                channel: f"{swarm.address(header.home, node)} {name}"
                for node, ids in channels.items()
                for channel, name in zip(ids, names, strict=True)
            }
            labels |= accounting.other_channels(conn, list(by_address), labels)
            expected = _expected(truth, channels)
            every = list(labels)
            for at in range(0, len(every), CHANNELS_AT_ONCE):
                part = {channel: labels[channel] for channel in every[at : at + CHANNELS_AT_ONCE]}
                accounting.account_of_sent(conn, account, part, expected)
                if told is not None:
                    told("accounting", at + len(part), len(every))
    return account


def list_sent(
    record: Path, header: "Header", channels: dict[int, tuple[int, ...]], truth: _Truth
) -> "Iterator[SentReading]":
    """The readings of a record; `truth` is complete when the last has been taken."""
    from infra.swarm.meters import FIELDS, values_of
    from infra.swarm.record import Acked, read
    from sinks.accounting import SentReading

    width = len(FIELDS)
    for frame in read(record):
        if isinstance(frame, Acked):
            truth.acked[frame.node] = max(frame.seq, truth.acked.get(frame.node, 0))
            continue
        truth.first.setdefault(frame.node, frame)
        truth.last[frame.node] = frame
        for i, channel in enumerate(channels[frame.node]):
            yield SentReading(
                channel,
                frame.measured_us,
                frame.seq,
                values_of(frame.numbers[i * width : (i + 1) * width]),
            )


def _expected(truth: _Truth, channels: dict[int, tuple[int, ...]]) -> "dict[int, Energy]":
    """The energy that the meters counted, whatever their registers show since a reset."""
    from sinks.accounting import Energy

    expected = {channel: Energy(0, 0) for ids in channels.values() for channel in ids}
    for node, first in truth.first.items():
        registers = zip(first.registers_uwh(), truth.last[node].registers_uwh(), strict=True)
        for channel, (before, after) in zip(channels[node], registers, strict=True):
            expected[channel] = Energy(after[0] - before[0], after[1] - before[1])
    return expected
