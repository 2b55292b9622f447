"""Devices and their partitions in memory; what changes goes to the database in batches."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import psycopg

from schemas.models import Model, contract_of
from schemas.presence import Presence
from schemas.topics import RAW
from sinks import presence, presence_store
from sinks.presence import DeviceTerms
from sinks.presence_store import ChangeRow, Progress, Standing
from streams.presence.reading import Tick
from streams.presence.watch import Change, Heard, Watch, Watched

CHECKPOINT_S = 5.0  # one partition at a time, so each of twelve once a minute
DETECT_S = 10.0
MOST_DETECTED = 2_000


class Record(NamedTuple):
    """A record of the raw log, as far as it concerns presence."""

    part: int
    offset: int
    appended_us: int
    address: str
    what: Tick | Heard | None


class PresenceJob:
    """Follows the log no further than the worker has stored it: then every device is known.

    What is heard of a device is written when its state changes, and once a minute; after a crash
    the log is read again from there, and gives the same rows.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._devices: dict[str, Watched] = {}
        self._waiting: dict[int, deque[Record]] = {part: deque() for part in range(RAW.partitions)}
        self._revived: dict[int, int] = {}
        self._models: Mapping[str, Model] = {}
        self._detected = 0
        self._detect_at = self._checkpoint_at = 0.0
        self._next_part = 0
        places = {place.part: place for place in presence.progress(conn)}
        self.watches = {
            part: Watch(*places.get(part, Progress(part, 0, 0, 0, {}))) for part in self._waiting
        }
        self._load()
        self._restore()

    @property
    def waiting(self) -> int:
        """Records that the worker has not stored yet, or that nobody has looked at."""
        return sum(map(len, self._waiting.values()))

    def next_offset(self, part: int) -> int:
        """From where the partition is to be read."""
        return self.watches[part].next_offset

    def counts(self) -> dict[Presence, int]:
        """How many devices are in each state."""
        found = dict.fromkeys(Presence, 0)
        for device in self._devices.values():
            if device.state is not None:
                found[device.state] += 1
        return found

    def take(self, records: Iterable[Record]) -> None:
        for record in records:
            self._waiting[record.part].append(record)

    def work_off(self) -> list[ChangeRow]:
        """Fold what the worker has stored of the records that wait; store what has changed."""
        until = presence.stored_until(self._conn)
        self._learn()
        changes: list[Change] = []
        for part, waiting in self._waiting.items():
            watch, end = self.watches[part], until.get(part, 0)
            while waiting and waiting[0].offset < end:
                record = waiting.popleft()
                watch.next_offset = record.offset + 1
                changes += self._fold(watch, record)
        rows = _rows(changes)
        places = self._due_checkpoint()
        self._store(rows, {change.device for change in changes}, places)
        if self._revived:
            presence.revive(self._conn, list(self._revived.items()))
            self._revived.clear()
        self._detect()
        return rows

    def save(self) -> None:
        """Write everything down, at the end."""
        self._store([], (), list(self.watches.values()))

    # ---------------------------------------------------------------- inside

    def _fold(self, watch: Watch, record: Record) -> list[Change]:
        what = record.what
        if isinstance(what, Tick):
            return watch.tick(what.shard, what.tick_us, record.appended_us, record.offset)
        device = self._devices.get(record.address)
        if what is None or device is None:
            return []
        if device.deleted_us is not None:
            speaks = what.says_online is not False and not what.retained
            if speaks and what.at_us > device.deleted_us:
                self._revived[device.device_id] = what.at_us
            return []
        return watch.hear(device, what, record.offset)

    def _due_checkpoint(self) -> list[Watch]:
        now = time.monotonic()
        if now < self._checkpoint_at + CHECKPOINT_S:
            return []
        self._checkpoint_at = now
        watch = self.watches[self._next_part]
        self._next_part = (self._next_part + 1) % len(self.watches)
        return [watch]

    def _store(
        self, rows: list[ChangeRow], changed: Iterable[Watched], places: list[Watch]
    ) -> None:
        saved = set(changed).union(*(watch.unsaved for watch in places))
        if rows or saved or places:
            presence_store.store(
                self._conn,
                rows,
                [_standing(device) for device in saved if device.state is not None],
                [
                    Progress(w.part, w.next_offset, w.stream_us, w.resumed_us, w.ticks)
                    for w in places
                ],
            )
        for watch in places:
            watch.unsaved.clear()

    def _detect(self) -> None:
        now = time.monotonic()
        if now < self._detect_at + DETECT_S:
            return
        self._detect_at = now
        self._detected = presence.detect_capabilities(self._conn, self._detected, MOST_DETECTED)

    def _load(self) -> None:
        self._models = presence.models(self._conn)
        self._know(presence.all_devices(self._conn))

    def _learn(self) -> None:
        changed = presence.changed_devices(self._conn)
        if changed is None:
            self._load()
        elif changed:
            self._know(changed)

    def _know(self, told: Iterable[DeviceTerms]) -> None:
        limits, deleted = [], []
        for terms in told:
            contract = contract_of(self._models, terms.family, terms.model)
            device = self._devices.get(terms.address)
            if device is None:
                device = self._devices[terms.address] = Watched(
                    terms.device_id, terms.address, terms.home_id, contract, terms.deleted_us
                )
            if device.home_id != terms.home_id:
                device.home_id, device.alert_us = terms.home_id, None
            device.contract, device.deleted_us = contract, terms.deleted_us
            if device.deleted_us is not None and device.state is not None:
                device.forget()
                deleted.append(device.device_id)
            elif device.part is not None:
                self.watches[device.part].schedule(device)
            free = terms.gap_limit_s is None or terms.gap_limit_of_model
            if free and terms.gap_limit_s != contract.longest_gap_s:
                limits.append((terms.device_id, contract.longest_gap_s))
        if limits:
            presence.set_gap_limits(self._conn, limits)
        if deleted:
            presence_store.forget(self._conn, deleted)

    def _restore(self) -> None:
        """How devices stood at the last change or checkpoint."""
        by_id = {device.device_id: device for device in self._devices.values()}
        for row in presence.standings(self._conn):
            device = by_id[row.device_id]
            if device.deleted_us is not None:
                continue
            device.part, device.state, device.since_us = row.part, row.state, row.since_us
            device.heard_us, device.folded_us = row.heard_us, row.folded_us
            device.alert_us = row.alert_us
            self.watches[row.part].schedule(device)


def _standing(device: Watched) -> Standing:
    assert device.part is not None
    assert device.state is not None
    return Standing(
        device.device_id,
        device.part,
        device.state,
        device.since_us,
        device.heard_us,
        device.folded_us,
        device.alert_us,
    )


def _rows(changes: list[Change]) -> list[ChangeRow]:
    """What is stored of changes, and which of them a home is told.

    A device that is back before anybody could be told raises no alert: so a log that is read late
    does not wake people for the past.
    """
    last = {change.device: number for number, change in enumerate(changes)}
    rows = []
    for number, change in enumerate(changes):
        device, alert, raised_us = change.device, None, None
        if change.state is Presence.OFFLINE and last[device] == number and device.home_id:
            alert, device.alert_us = "raised", change.since_us
        elif change.state is Presence.ONLINE and device.alert_us is not None:
            alert, raised_us, device.alert_us = "cleared", device.alert_us, None
        rows.append(
            ChangeRow(
                device.device_id,
                change.since_us,
                change.state,
                change.reason,
                change.heard_us,
                device.home_id,
                alert,
                raised_us,
                change.offset,
            )
        )
    return rows
