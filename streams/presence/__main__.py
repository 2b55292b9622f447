"""`python -m streams.presence`: which devices are online, late or offline, and telling of it."""

import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client import Counter, Gauge

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.cost import Turn
from schemas.presence import DeviceAlert, PresenceReason
from schemas.topics import ALERT, DEVICE, RAW
from sinks import presence
from sinks.advisory_locks import Lock
from sinks.device_states import states_of
from sinks.presence import Told
from streams.presence.job import PresenceJob, Record
from streams.presence.reading import read
from streams.presence.settings import PresenceSettings
from streams.process import alone, outlast_outages, run_process
from streams.publish import Record as Said
from streams.publish import make_producer, publish
from streams.rounds import ROUNDS

log = structlog.get_logger()

RECORDS = Counter("meterstream_presence_records", "Records taken from the raw log")
CHANGES = Counter("meterstream_presence_changes", "Changes of presence", ["state"])
DEVICES = Gauge("meterstream_presence_devices", "Devices by presence", ["state"])
RETRIES = Counter("meterstream_presence_retries", "Rounds tried again after an outage")

_MOST_RECORDS, _MOST_WAITING, _MOST_TOLD = 5_000, 50_000, 5_000
_TOLD_AGAIN_S = 10.0
_SOURCE = "/meterstream/presence"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def run(
    settings: PresenceSettings, database_url: str, bootstrap: str, stop: threading.Event
) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down."""
    producer = make_producer(bootstrap)

    def work(conn: psycopg.Connection[Any]) -> None:
        if not alone(conn, Lock.PRESENCE, stop):
            return
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "meterstream-presence",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # Half a second is soon enough: few large fetches of a log that never rests.
                "fetch.min.bytes": 1 << 20,
                "fetch.wait.max.ms": 500,
            }
        )
        try:
            _work(settings, conn, consumer, Teller(conn, producer), stop)
        finally:
            consumer.close()

    outlast_outages("presence", database_url, stop, work, RETRIES)


def _work(
    settings: PresenceSettings,
    conn: psycopg.Connection[Any],
    consumer: Consumer,
    teller: "Teller",
    stop: threading.Event,
) -> None:
    job = PresenceJob(conn)
    parts = range(RAW.partitions)
    consumer.assign([TopicPartition(RAW.name, part, job.next_offset(part)) for part in parts])
    teller.tell()
    asked = 0.0
    while not stop.is_set():
        if job.waiting < _MOST_WAITING:
            job.take(_records(consumer.consume(_MOST_RECORDS, settings.presence_pause_s)))
        else:
            stop.wait(settings.presence_pause_s)
        if job.waiting < _MOST_WAITING and time.monotonic() < asked + settings.presence_pause_s:
            continue
        asked = time.monotonic()
        changes = job.work_off()
        for change in changes:
            CHANGES.labels(change.state.value).inc()
        if changes:
            teller.tell()
        teller.tell_again()
        for state, count in job.counts().items():
            DEVICES.labels(state.value).set(count)
        ROUNDS.note()
    job.save()


def _records(messages: list[Message]) -> list[Record]:
    found = []
    for message in messages:
        if message.error() is not None:
            log.warning("Kafka says", error=str(message.error()))
            continue
        part, offset = message.partition(), message.offset()
        assert part is not None
        assert offset is not None
        what = read(message.headers() or [], message.value() or b"")
        address = (message.key() or b"").decode(errors="replace")
        found.append(Record(part, offset, message.timestamp()[1] * 1000, address, what))
    RECORDS.inc(len(found))
    return found


class Teller:
    """Tells Kafka what has changed: each device's whole state, and alerts to homes."""

    def __init__(self, conn: psycopg.Connection[Any], producer: Producer) -> None:
        self._conn, self._producer = conn, producer
        self._again: deque[tuple[float, list[int]]] = deque()

    def tell(self) -> None:
        """Publish what Kafka does not have yet, and wait until it has.

        A crash after that publishes it again, alerts with the same identity.
        """
        while told := presence.unannounced(self._conn, _MOST_TOLD):
            ids = sorted({one.device_id for one in told})
            alerts = [alert_of(one) for one in told if one.alert and one.home_id]
            at_once = presence.unconfirmed(self._conn, ids)
            self._publish(ids, alerts)
            presence.mark_announced(self._conn, told)
            if at_once:
                self._again.append((time.monotonic() + _TOLD_AGAIN_S, at_once))

    def tell_again(self) -> None:
        """Say states once more that a worker was publishing, as it had read them just before."""
        while self._again and self._again[0][0] <= time.monotonic():
            self._publish(self._again.popleft()[1], [])

    def _publish(self, device_ids: list[int], alerts: list[DeviceAlert]) -> None:
        said = [
            Said(DEVICE, str(one.device_id), f"{one.device_id}/{one.states[-1].measured_us}", one)
            for one in states_of(self._conn, device_ids)
        ]
        told = [Said(ALERT, alert.home_id, alert.alert_id, alert) for alert in alerts]
        publish(self._producer, [*said, *told], _SOURCE)


def alert_of(told: Told) -> DeviceAlert:
    """What the home of a device is told of a change."""
    assert told.home_id is not None
    assert told.alert is not None
    turn = Turn(told.alert)
    raised_at = told.raised_at or told.since_at
    return DeviceAlert(
        alert_id=f"offline/{told.device_id}/{_us(raised_at)}/{turn}",
        home_id=told.home_id,
        device_id=told.device_id,
        address=told.address,
        name=told.name,
        turn=turn,
        at=told.since_at,
        reason=PresenceReason(told.reason),
        heard_at=told.heard_at,
        raised_at=told.raised_at,
    )


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def main() -> None:
    settings = PresenceSettings()
    run_process(
        "presence",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
