"""The downlink's loop: read what came, say what is decided, publish what was said to be sent."""

import threading
import time

from confluent_kafka import KafkaException
from structlog.typing import FilteringBoundLogger

from ingest.downlink.book import Book, Entry
from ingest.downlink.log import CommandLog, now_us
from ingest.downlink.metrics import DownlinkMetrics
from ingest.downlink.publisher import Publisher, Said
from ingest.downlink.settings import DownlinkSettings
from ingest.mqtt_account import MqttAccount
from schemas.command import CommandEvent, CommandRequest
from schemas.connections import KafkaConnection, MqttConnection
from schemas.units import SECOND_US

EXIT_TAKEN_OVER = 70
IDLE_S, BUSY_S = 0.05, 0.002
HOUSEKEEPING_S = 1.0
RETRY_S = 1.0
KAFKA_SILENT_S = 5.0
_ROOM_AGAIN = 0.8


class Downlink:
    def __init__(
        self,
        settings: DownlinkSettings,
        mqtt: MqttConnection,
        account: MqttAccount,
        kafka: KafkaConnection,
        metrics: DownlinkMetrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._stopping = threading.Event()
        self._book = Book()
        self._publisher = Publisher(mqtt, account, log)
        self._commands = CommandLog(kafka.bootstrap, settings.group, log)
        self._caught_up_on = 0  # the connection whose predecessors' words have all been read
        self._awaited: dict[int, int] | None = None  # events there must be read first
        self._read_events: dict[int, int] = {}
        self._housekeeping_due_s = 0.0
        self._kafka_trouble: str | None = "not asked yet"
        self._saying_since_s: float | None = None

    # ---- from outside: signal handler, health

    def stop(self) -> None:
        self._stopping.set()

    def troubles(self) -> list[str]:
        """Why this downlink is not healthy; empty when it is."""
        found = []
        if not self._publisher.connected:
            found.append(f"MQTT: {self._publisher.trouble}")
        if self._kafka_trouble is not None:
            found.append(f"Kafka: {self._kafka_trouble}")
        since_s = self._saying_since_s
        if since_s is not None and time.monotonic() - since_s > KAFKA_SILENT_S:
            found.append(f"Kafka confirmed nothing for {KAFKA_SILENT_S:.0f} s")
        return found

    # ---- the loop

    def run(self) -> int:
        """Until `stop`: 0; when another downlink has taken the session: 70."""
        while not self._stopping.is_set() and not self._begin():
            self._stopping.wait(RETRY_S)
        while not self._stopping.is_set() and not self._publisher.taken_over:
            try:
                self._step()
            except KafkaException as error:
                self._kafka_away(error)
        self._publisher.close()
        if not self._stopping.is_set():
            self._log.error("taken_over", meaning="another downlink runs", exit=EXIT_TAKEN_OVER)
            return EXIT_TAKEN_OVER
        self._commands.close()
        return 0

    def _begin(self) -> bool:
        try:
            self._read_events = self._commands.begin()
        except KafkaException as error:
            self._kafka_away(error)
            return False
        self._book.begin(self._read_events)
        self._kafka_trouble = None
        return True

    def _step(self) -> None:
        """One round. Kafka away ends it early: then nothing is lost, and nothing is published that
        was not said.
        """
        publisher, book = self._publisher, self._book
        publisher.tend()
        self._read(BUSY_S if publisher.in_flight else IDLE_S)
        self._hear_broker()
        room = publisher.room if self._may_publish() else 0
        verdicts = book.verdicts(now_us())
        chosen = book.next(now_us(), room)
        try:
            self._say(verdicts, [entry for entry in chosen if not entry.said])
        except KafkaException:
            book.say_later(verdicts)
            for entry in chosen:
                book.wait(entry)
            raise
        for entry in chosen:
            self._publish(entry)
        now_s = time.monotonic()
        if now_s >= self._housekeeping_due_s:
            self._housekeeping_due_s = now_s + HOUSEKEEPING_S
            self._keep_house()
        self._kafka_trouble = None

    def _read(self, timeout_s: float) -> None:
        for said, is_request, partition, offset in self._commands.read(timeout_s):
            if not is_request:
                self._read_events[partition] = offset + 1
            if isinstance(said, CommandRequest):
                self._metrics.requests.inc()
                self._book.take(said, partition, offset, now_us())
            elif isinstance(said, CommandEvent):
                self._book.heard(said, partition, offset)
            else:
                self._metrics.unreadable.inc()
                if is_request:
                    self._book.pass_over(partition, offset)
                else:
                    self._book.heard_nothing(partition, offset)

    def _may_publish(self) -> bool:
        """Whether all is read that was said to be sent before this connection was made.

        With its CONNECT the broker has cut off whoever was here before.
        """
        if not self._publisher.connected:
            return False
        if self._caught_up_on == self._publisher.connections:
            return True
        if self._awaited is None:
            self._awaited = self._commands.event_ends()
        read = self._read_events
        if any(read.get(part, 0) < end for part, end in self._awaited.items()):
            return False
        self._awaited = None
        self._caught_up_on = self._publisher.connections
        return True

    def _say(self, verdicts: list[CommandEvent], chosen: list[Entry]) -> None:
        at_us = now_us()
        events = verdicts + [self._book.sent_event(entry, at_us) for entry in chosen]
        if not events:
            return
        self._saying_since_s = time.monotonic()
        try:
            self._commands.say(events)
        finally:
            self._saying_since_s = None
        for entry in chosen:
            entry.said = True
        for event in verdicts:
            self._metrics.verdicts[event.state].inc()

    def _publish(self, entry: Entry) -> None:
        at_us = now_us()
        if entry.left_us(at_us) <= 0 or not self._publisher.publish(entry, entry.expiry_s(at_us)):
            self._book.wait(entry)
            return
        self._metrics.published.inc()
        if entry.times:
            self._metrics.repeated.inc()
        else:
            self._metrics.sent_s.observe(max(0, at_us - entry.taken_us) / SECOND_US)
        self._book.published(entry, at_us)

    def _hear_broker(self) -> None:
        for said, entry, reason in self._publisher.words():
            match said:
                case Said.TAKEN:
                    self._book.taken(entry)
                case Said.UNHEARD:
                    self._metrics.unheard.inc()
                    self._book.unheard(entry)
                case Said.DOUBTFUL:
                    self._metrics.doubtful.inc()
                    self._book.doubtful(entry)
                case Said.REFUSED:
                    self._log.warning("refused_by_broker", reason=reason)
                    self._book.refused(entry, reason, now_us())

    def _keep_house(self) -> None:
        self._book.forget(now_us())
        self._commands.commit(self._book.positions())
        most = self._settings.most_open
        if len(self._book) > most:
            self._commands.hold(True)
        elif len(self._book) < _ROOM_AGAIN * most:
            self._commands.hold(False)
        self._metrics.open.set(len(self._book))
        self._metrics.connected.set(self._publisher.connected)

    def _kafka_away(self, error: KafkaException) -> None:
        if self._kafka_trouble is None:
            self._log.warning("kafka_away", error=str(error))
        self._kafka_trouble = str(error)
        self._stopping.wait(RETRY_S)
