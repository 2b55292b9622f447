"""What became of fuzzed messages: sent = raw records; raw record = refused, or all it says stored.

Nothing here asks the stream. The raw topic is read again and every record decoded again; the
database and the dead letter topic must then hold exactly what these records say:

- a record that cannot be decoded is one row of `refused` and one dead letter, with its
  reason and its bytes;
- of any other, each value of each reading is in its row of `readings`, or in `reading_conflict`
  where another message of that instant said otherwise; each event is a row of `device_event`; each
  state is in `device_state` unless a later one is there;
- a record that says nothing (a Shelly's `mqtt.connected`, say) is in none of them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from msgspec.structs import asdict
from paho.mqtt.client import topic_matches_sub

from ingest.decoders.topic_table import SUBSCRIPTIONS, decode
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import StateValue
from schemas.reading import VALUE_NAMES, Clock, Reading

MOST_FAILURES = 20
SHOWN_BYTES = 200

Place = tuple[int, int]
"""Partition and offset."""


class RawRecord(NamedTuple):
    """A record of the raw topic, or a dead letter; `place` is that of the raw record."""

    place: Place
    topic: str
    payload: bytes
    received_us: int = 0
    retained: bool = False
    redelivered: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """Something that does not add up. `payload` is shown as Python would, cut off."""

    what: str
    topic: str
    payload: str
    place: Place | None = None


class Sent(NamedTuple):
    topic: str
    digest: bytes

    @classmethod
    def of(cls, topic: str, payload: bytes) -> "Sent":
        return cls(topic, hashlib.blake2b(payload, digest_size=16).digest())


@dataclass
class Tally:
    """Messages: `sent` is what was published, `records` what the raw topic holds of it.

    `unheard` were published where nobody listens; `copies` came again because a topic matches two
    filters, `redelivered` because MQTT says so. Of the records, `refused` by reason, `readings`,
    `states_only` (and events), `silent`, `repeated` (a redelivered one without a clock) sum to all.
    """

    sent: int = 0
    unheard: int = 0
    copies: int = 0
    redelivered: int = 0
    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    states_only: int = 0
    silent: int = 0
    repeated: int = 0
    rows: int = 0
    conflicts: int = 0
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0

    @property
    def accounted(self) -> int:
        told = self.readings + self.states_only + self.silent + self.repeated
        return self.refused.total() + told

    def fail(self, what: str, topic: str, payload: bytes, place: Place | None = None) -> None:
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            text = f"{payload[:SHOWN_BYTES]!r}" + ("…" if len(payload) > SHOWN_BYTES else "")
            self.failures.append(Failure(what, topic, text, place))


class Said(NamedTuple):
    """One reading of a record."""

    place: Place
    topic: str
    payload: bytes
    address: str
    reading: Reading


FieldKey = tuple[str, str, str]
"""Address, channel ('' is the device) and field."""


class Oracle:
    """Accounts for batches, one after the other. `conn` is for reading only."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._channel_ids: dict[tuple[str, str], int] = {}
        self._fields: dict[FieldKey, tuple[int, Place, StateValue]] = {}
        self.tally = Tally()

    def account(
        self,
        sent: Sequence[tuple[str, bytes]],
        records: Sequence[RawRecord],
        dead_letters: Iterable[RawRecord],
    ) -> None:
        """Account for a batch: all of it is stored, and nothing of any other batch is in it."""
        self._match(sent, records)
        refused: dict[Place, tuple[RawRecord, str]] = {}
        said: list[Said] = []
        events: dict[tuple[int, int, int], tuple[RawRecord, Any]] = {}
        touched: dict[FieldKey, RawRecord] = {}
        tally = self.tally
        for record in records:
            try:
                decoded = decode(
                    record.topic, record.payload, record.received_us, retained=record.retained
                )
            except Undecodable as error:
                refused[record.place] = (record, error.reason.value)
                continue
            self._take(record, decoded, said, events, touched)
        stored = self._stored_refusals(records)
        for place in stored.keys() - refused.keys():  # decodable, and yet
            if stored[place].reason != Reason.UNSTORABLE:
                tally.fail(f"refused as {stored[place].reason}, but it can be decoded",
                           stored[place].topic, stored[place].payload, place)  # fmt: skip
        self._check_refused(refused, stored, dead_letters)
        self._check_readings([one for one in said if one.place not in stored])
        self._check_events(records, events)
        self._check_states(touched)

    # ---- sent = raw records

    def _match(self, sent: Sequence[tuple[str, bytes]], records: Sequence[RawRecord]) -> None:
        tally = self.tally
        tally.sent += len(sent)
        tally.records += len(records)
        left = Counter(Sent.of(record.topic, record.payload) for record in records)
        again = Counter(Sent.of(r.topic, r.payload) for r in records if r.redelivered)
        tally.redelivered += again.total()
        bytes_of = {Sent.of(topic, payload): payload for topic, payload in sent}
        for one, count in Counter(Sent.of(*each) for each in sent).items():
            filters = sum(topic_matches_sub(filter, one.topic) for filter in SUBSCRIPTIONS)
            if not filters:
                tally.unheard += count
            tally.copies += count * max(0, filters - 1)
            found = left.pop(one, 0)
            if not filters * count <= found <= filters * count + again[one]:
                tally.fail(f"sent {count} times to {filters} filters, {found} records in the log",
                           one.topic, bytes_of[one])  # fmt: skip
        for one, count in left.items():
            tally.fail(f"{count} records in the log that were never sent", one.topic, one.digest)

    def _take(
        self,
        record: RawRecord,
        decoded: Decoded,
        said: list[Said],
        events: dict[tuple[int, int, int], tuple[RawRecord, Any]],
        touched: dict[FieldKey, RawRecord],
    ) -> None:
        tally = self.tally
        clockless = not decoded.readings or decoded.readings[0].clock is not Clock.DEVICE
        if record.redelivered and clockless:
            tally.repeated += 1
            return
        if decoded.readings:
            tally.readings += 1
        elif decoded.states or decoded.events:
            tally.states_only += 1
        else:
            tally.silent += 1
        address = decoded.address
        said += [
            Said(record.place, record.topic, record.payload, address, r) for r in decoded.readings
        ]
        for number, event in enumerate(decoded.events):
            expected = (address, event.channel, event.name, event.measured_us, event.attributes)
            events[*record.place, number] = (record, expected)
        for state in decoded.states:
            for name, value in state.fields.items():
                key = (address, state.channel or "", name)
                known = self._fields.get(key)
                if known is None or known[:2] < (state.measured_us, record.place):
                    self._fields[key] = (state.measured_us, record.place, value)
                    touched[key] = record

    # ---- refused

    def _stored_refusals(self, records: Sequence[RawRecord]) -> dict[Place, RawRecord]:
        rows = self._conn.execute(
            "SELECT part, log_offset, mqtt_topic, payload, reason FROM refused "
            "JOIN unnest(%s::int[], %s::bigint[]) AS v (part, log_offset) USING (part, log_offset)",
            _columns([record.place for record in records], 2),
        ).fetchall()
        return {
            (part, offset): RawRecord((part, offset), topic, bytes(payload), reason=reason)
            for part, offset, topic, payload, reason in rows
        }

    def _check_refused(
        self,
        expected: dict[Place, tuple[RawRecord, str]],
        stored: dict[Place, RawRecord],
        dead_letters: Iterable[RawRecord],
    ) -> None:
        tally = self.tally
        letters: dict[Place, RawRecord] = {letter.place: letter for letter in dead_letters}
        for place, (record, reason) in expected.items():
            tally.refused[reason] += 1
            for where, found in (("refused", stored.get(place)), ("dlq", letters.get(place))):
                if found is None:
                    what = f"cannot be decoded ({reason}), but is not in {where}"
                elif (found.payload, found.reason) != (record.payload, reason):
                    what = f"{where} has it as {found.reason}, or with other bytes, not as {reason}"
                else:
                    continue
                tally.fail(what, record.topic, record.payload, place)
        for place in stored.keys() - expected.keys():
            tally.refused[stored[place].reason] += 1
            one = stored[place]
            if place not in letters:
                tally.fail("refused, but no dead letter", one.topic, one.payload, place)
        for place in letters.keys() - stored.keys():
            one = letters[place]
            tally.fail("a dead letter of what was not refused", one.topic, one.payload, place)

    # ---- readings

    def _check_readings(self, said: Sequence[Said]) -> None:
        tally = self.tally
        self._learn_channels({(one.address, one.reading.channel) for one in said})
        keys: dict[tuple[int, int], list[Said]] = {}
        for one in said:
            channel = self._channel_ids.get((one.address, one.reading.channel))
            if channel is None:
                tally.fail(f"{one.address} has no channel {one.reading.channel}",
                           one.topic, one.payload, one.place)  # fmt: skip
            else:
                keys.setdefault((channel, one.reading.measured_us), []).append(one)
        rows = self._rows("readings", ", ".join(VALUE_NAMES), keys)
        conflicts = self._rows("reading_conflict", "reading", keys)
        tally.conflicts += sum(len(found) for found in conflicts.values())
        for key, ones in keys.items():
            found = rows.get(key)
            if not found:
                one = ones[0]
                tally.fail(f"a reading of {one.address} {one.reading.channel} is not stored",
                           one.topic, one.payload, one.place)  # fmt: skip
                continue
            offset, *stored = found[0]
            kept = dict(zip(VALUE_NAMES, stored, strict=True))
            others = [other for _, other in conflicts.get(key, [])]
            fresh = offset in {one.place[1] for one in ones}
            tally.rows += fresh
            for one in ones:
                self._check_values(one, kept, others)
            if fresh:
                told = {(n, v) for one in ones for n, v in asdict(one.reading.values).items()}
                for invented in {(n, v) for n, v in kept.items() if v is not None} - told:
                    one = ones[0]
                    tally.fail(f"stored {invented}, which nobody said",
                               one.topic, one.payload, one.place)  # fmt: skip

    def _check_values(self, one: Said, kept: dict[str, Any], others: list[dict[str, Any]]) -> None:
        for name, value in asdict(one.reading.values).items():
            if value is None or kept[name] == value:
                continue
            if not any(other.get(name) == value for other in others):
                self.tally.fail(f"{name} {value} is stored as {kept[name]}, and is in no conflict",
                                one.topic, one.payload, one.place)  # fmt: skip

    def _learn_channels(self, wanted: set[tuple[str, str]]) -> None:
        unknown = sorted(wanted - self._channel_ids.keys())
        if unknown:
            rows = self._conn.execute(
                "SELECT d.address, c.name, channel_id FROM channel AS c JOIN device AS d USING "
                "(device_id) JOIN unnest(%s::text[], %s::text[]) AS v (address, name) "
                "ON v.address = d.address AND v.name = c.name",
                _columns(unknown, 2),
            )
            self._channel_ids.update({(a, c): channel_id for a, c, channel_id in rows})

    def _rows(
        self, table: str, columns: str, keys: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], list[tuple[Any, ...]]]:
        found: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        question = (
            f"SELECT v.channel_id, v.at_us, log_offset, {columns} "
            "FROM unnest(%s::int[], %s::bigint[]) AS v (channel_id, at_us) "
            f"JOIN {table} AS r ON r.channel_id = v.channel_id AND r.measured_at = from_us(v.at_us)"
        )
        for channel, at_us, *row in self._conn.execute(question, _columns(list(keys), 2)):
            found.setdefault((channel, at_us), []).append(tuple(row))
        return found

    # ---- events and states

    def _check_events(
        self,
        records: Sequence[RawRecord],
        expected: dict[tuple[int, int, int], tuple[RawRecord, Any]],
    ) -> None:
        rows = self._conn.execute(
            "SELECT part, log_offset, number, address, channel, e.name, to_us(measured_at), "
            "attributes FROM device_event AS e JOIN device USING (device_id) "
            "JOIN unnest(%s::int[], %s::bigint[]) AS v (part, log_offset) USING (part, log_offset)",
            _columns([record.place for record in records], 2),
        ).fetchall()
        stored = {row[:3]: row[3:] for row in rows}
        for key, (record, event) in expected.items():
            found = stored.pop(key, None)
            if found is None or found[:-1] != event[:-1] or not _alike(found[-1], event[-1]):
                self.tally.fail("an event is not stored as it was said",
                                record.topic, record.payload, record.place)  # fmt: skip
        for part, offset, _ in stored:
            self.tally.fail("an event is stored that nobody said", "", b"", (part, offset))

    def _check_states(self, touched: dict[FieldKey, RawRecord]) -> None:
        rows = self._conn.execute(
            "SELECT address, channel, field, value, to_us(measured_at), log_offset "
            "FROM device_state JOIN device USING (device_id) WHERE address = ANY(%s)",
            [sorted({key[0] for key in touched})],
        ).fetchall()
        stored = {row[:3]: row[3:] for row in rows}
        for key, record in touched.items():
            at_us, (_, offset), value = self._fields[key]
            found = stored.get(key)
            if found is None or found[1:] != (at_us, offset) or not _alike(found[0], value):
                self.tally.fail(f"state {key} is {found}, not {value!r}",
                                record.topic, record.payload, record.place)  # fmt: skip


def _alike(stored: Any, said: Any) -> bool:
    """Whether a jsonb holds what was said; of a great double it keeps the digits, as an integer."""
    if isinstance(said, dict):
        return stored.keys() == said.keys() and all(_alike(stored[k], v) for k, v in said.items())
    if isinstance(said, float) and isinstance(stored, int | float):
        return float(stored) == said
    return bool(stored == said)


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(count)]
