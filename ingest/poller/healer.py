"""Asks meters for the minutes of their silences, one hour of one device at a time."""

import queue
import random
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from structlog.typing import FilteringBoundLogger

from ingest.poller.ear import Ear
from ingest.poller.healing import Answer, Page, answer_to, next_page, request
from ingest.poller.metrics import PollerMetrics
from sinks import backfills
from sinks.backfills import Backfill

MOST_AT_ONCE = 20
WAIT_FIRST_S, WAIT_MOST_S = 30.0, 3600.0


@dataclass
class Asked:
    backfill: Backfill
    page: Page
    until_s: float


class Healer:
    """Driven by one thread: `note`, `step`. What is under way is lost with the process, and asked
    again by the next one; the same minutes twice say nothing new.
    """

    def __init__(
        self, ear: Ear, metrics: PollerMetrics, log: FilteringBoundLogger, answer_s: float
    ) -> None:
        self._ear = ear
        self._metrics = metrics
        self._log = log
        self._answer_s = answer_s
        self._asked: dict[str, Asked] = {}  # by the reply's topic

    def note(self, conn: psycopg.Connection[Any]) -> None:
        for silence in backfills.note_silences(conn):
            self._metrics.silences.inc()
            self._log.info("silence", **silence._asdict())

    def step(self, conn: psycopg.Connection[Any]) -> None:
        """Take the answers that have come, give up waiting where it is time, and ask on."""
        self._take_replies(conn)
        now_s = time.monotonic()
        for topic, asked in list(self._asked.items()):
            if now_s >= asked.until_s:
                del self._asked[topic]
                self._postpone(conn, asked.backfill, "no answer")
        if not self._ear.is_connected:
            return
        busy = [asked.backfill.silence.device_id for asked in self._asked.values()]
        for one in backfills.due_backfills(conn, busy, MOST_AT_ONCE - len(busy)):
            self._ask(conn, one)

    @property
    def is_busy(self) -> bool:
        return bool(self._asked)

    def _ask(self, conn: psycopg.Connection[Any], one: Backfill) -> None:
        prefix = one.address.partition(":")[2]
        page = next_page(one.silence.component, one.asked_until_us, one.silence.end_us)
        topic, payload = request(prefix, page)
        if not self._ear.send(topic, payload, expiry_s=max(1, int(self._answer_s))):
            self._postpone(conn, one, "the question could not be sent")
            return
        self._metrics.questions.inc()
        until_s = time.monotonic() + self._answer_s
        self._asked[f"meterstream/{prefix}/rpc"] = Asked(one, page, until_s)

    def _take_replies(self, conn: psycopg.Connection[Any]) -> None:
        while True:
            try:
                topic, payload = self._ear.replies.get_nowait()
            except queue.Empty:
                return
            asked = self._asked.get(topic)
            if asked is None:
                continue
            answer = answer_to(asked.page, topic, payload, time.time_ns() // 1000)
            if answer is not None:
                del self._asked[topic]
                self._take(conn, asked, answer)

    def _take(self, conn: psycopg.Connection[Any], asked: Asked, answer: Answer) -> None:
        silence = asked.backfill.silence
        if answer.error is None:
            self._metrics.records.inc(answer.records)
            backfills.answered(conn, silence, answer.until_us, answer.records)
            if answer.until_us >= silence.end_us:
                self._log.info("silence_asked_for", **silence._asdict())
        elif answer.for_good:
            self._metrics.unanswered.inc()
            self._log.warning("silence_given_up", reason=answer.error, **silence._asdict())
            backfills.given_up(conn, silence, answer.error)
        else:
            self._postpone(conn, asked.backfill, answer.error)

    def _postpone(self, conn: psycopg.Connection[Any], one: Backfill, reason: str) -> None:
        self._metrics.unanswered.inc()
        wait_s = min(WAIT_MOST_S, WAIT_FIRST_S * 2 ** min(one.tries, 10)) * random.uniform(0.5, 1)
        self._log.warning("no_stored_minutes", reason=reason, next_try_in_s=round(wait_s))
        backfills.postponed(conn, one.silence, wait_s, reason)
