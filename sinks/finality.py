"""When is the usage of some devices final?

Final means: every record that the log held at the call is stored, every window that these records
close is complete, and the ledger says so. More readings, or late ones, may come afterwards.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.topics import RAW

_POLL_S = 0.25
_KAFKA_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Missing:
    """What is not final yet; nothing but zeros when all is.

    `records`: of the log as it stood at the call, not stored yet. `late_windows`: spans to be
    computed anew. `open_channels`: channels whose last whole minute is not complete.
    `dirty_quarters`: to be rolled up; `open_quarters`: over, but not complete in the ledger.
    While records are missing the others are not looked at.
    """

    records: int = 0
    late_windows: int = 0
    open_channels: int = 0
    dirty_quarters: int = 0
    open_quarters: int = 0

    def __bool__(self) -> bool:
        return self != Missing()

    def __str__(self) -> str:
        parts = (
            (self.records, "records of the log not stored"),
            (self.late_windows, "late windows to compute anew"),
            (self.open_channels, "channels whose last whole minute is not complete"),
            (self.dirty_quarters, "quarter hours to roll up"),
            (self.open_quarters, "quarter hours over but not complete"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "nothing"


class NotFinal(TimeoutError):
    """Time is up and usage is not final; `missing` says what kept it."""

    def __init__(self, missing: Missing, waited_s: float) -> None:
        super().__init__(
            f"usage is not final after {waited_s:.0f} s: {missing}; "
            "look at `meterstream status` and the logs of uplink, worker and rollup"
        )
        self.missing = missing
        self.waited_s = waited_s


class LogUnreachable(ConnectionError):
    """Kafka does not tell where its log ends."""


def log_ends(kafka_bootstrap: str, topic: str = RAW.name) -> dict[int, int]:
    """The end offset of each partition, as it stands now. Raises LogUnreachable."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": "meterstream-log-ends",  # never joined, nothing committed
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    until = time.monotonic() + _KAFKA_TIMEOUT_S
    try:
        while True:
            try:
                return _log_ends(consumer, topic)
            except (KafkaException, KeyError) as error:
                if not _passes(error) or time.monotonic() > until:
                    raise LogUnreachable(
                        f"Kafka at {kafka_bootstrap} does not say where {topic} ends: {error}"
                    ) from error
            time.sleep(_POLL_S)
    finally:
        consumer.close()


def _log_ends(consumer: Consumer, topic: str) -> dict[int, int]:
    partitions = consumer.list_topics(topic, timeout=_KAFKA_TIMEOUT_S).topics[topic].partitions
    return {
        part: consumer.get_watermark_offsets(
            TopicPartition(topic, part), timeout=_KAFKA_TIMEOUT_S, cached=False
        )[1]
        for part in sorted(partitions)
    }


def _passes(error: Exception) -> bool:
    """A leader is being chosen: for a moment after a topic is made, or a broker restarted."""
    return isinstance(error, KafkaException) and error.args[0].code() in (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    )


def records_behind(
    connection: psycopg.Connection[Any], ends: dict[int, int], topic: str = RAW.name
) -> int:
    """How many records before `ends` the stream has not stored."""
    reached: dict[int, int] = dict(
        connection.execute(
            "SELECT part, next_offset FROM stream_progress WHERE topic = %s", [topic]
        ).fetchall()
    )
    return sum(max(0, end - reached.get(part, 0)) for part, end in ends.items())


def wait_final(
    database_url: str,
    kafka_bootstrap: str,
    addresses: Sequence[str],
    *,
    timeout_s: float,
    progress: Callable[[Missing], None] | None = None,
) -> None:
    """Wait until the usage of the devices with these addresses is final.

    `progress` is called at each look (four a second) with what is missing. An address without
    readings is final. A minute is final up to the last reading only: send or import one reading at
    or after the end of the last minute that you want, and note that a window waits 10 s of stream
    time, so this takes at least as long.

    Raises NotFinal when time is up, LogUnreachable when Kafka does not answer; errors of the
    database come through.
    """
    begun = time.monotonic()
    ends = log_ends(kafka_bootstrap)
    with psycopg.connect(database_url, autocommit=True) as connection:
        minutes: list[tuple[int, object]] | None = None
        while True:
            behind = records_behind(connection, ends)
            if behind:
                missing = Missing(records=behind)
            else:
                if minutes is None:
                    minutes = _last_minutes(connection, addresses)
                missing = _missing(connection, minutes)
            if progress is not None:
                progress(missing)
            if not missing:
                return
            waited_s = time.monotonic() - begun
            if waited_s >= timeout_s:
                raise NotFinal(missing, waited_s)
            time.sleep(_POLL_S)


def _last_minutes(
    connection: psycopg.Connection[Any], addresses: Sequence[str]
) -> list[tuple[int, object]]:
    """Each channel with the whole minute at or before its newest reading.

    From `readings`: `channel_state.last_reading_at` is only written when a window completes.
    """
    return connection.execute(
        """
        SELECT channel_id, date_trunc('minute', newest.measured_at)
        FROM channel JOIN device USING (device_id)
        CROSS JOIN LATERAL (
            SELECT measured_at FROM readings AS r WHERE r.channel_id = channel.channel_id
            ORDER BY measured_at DESC LIMIT 1
        ) AS newest
        WHERE device.address = ANY(%s)
        """,
        [list(addresses)],
    ).fetchall()


def _missing(connection: psycopg.Connection[Any], minutes: list[tuple[int, object]]) -> Missing:
    """One statement, so that all of it is seen at the same instant."""
    row = connection.execute(
        """
        WITH wanted AS MATERIALIZED (
            SELECT * FROM unnest(%s::integer[], %s::timestamptz[]) AS w (channel_id, minute_at)
        )
        SELECT
            (SELECT count(*) FROM window_dirty WHERE channel_id IN (SELECT channel_id FROM wanted)),
            (SELECT count(*) FROM wanted LEFT JOIN channel_state AS s USING (channel_id)
             WHERE s.complete_until IS NULL OR s.complete_until < wanted.minute_at),
            (SELECT count(*) FROM rollup_dirty WHERE channel_id IN (SELECT channel_id FROM wanted)),
            (SELECT count(*) FROM wanted JOIN channel_state AS s USING (channel_id)
             JOIN usage_15m AS q USING (channel_id)
             WHERE NOT q.complete AND q.window_start + interval '15 minutes' <= s.complete_until)
        """,
        [[channel for channel, _ in minutes], [minute for _, minute in minutes]],
    ).fetchone()
    assert row is not None
    return Missing(0, *row)
