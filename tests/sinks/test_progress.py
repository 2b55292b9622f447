"""The fence: one writer a partition, whatever else still lives."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from schemas.topics import RAW
from sinks.progress import (
    FencedOut,
    Progress,
    Step,
    advance,
    note_log_gap,
    note_published,
    take_over,
)

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
NOW = 1_763_700_000_250_001


@pytest.fixture
def other(sinks_url: str) -> Iterator[Connection]:
    """A second worker's connection. Its backend may be gone at the end."""
    conn = psycopg.connect(sinks_url, autocommit=True)
    yield conn
    conn.close()


def step(taken: Progress, to: int, expected: int | None = None, **more: Any) -> Step:
    said: dict[str, Any] = {"published": 0, "stream_us": NOW, "ticks": {"s0": NOW}} | more
    start = taken.next_offset if expected is None else expected
    return Step(taken.part, taken.epoch, start, to, **said)


def progress_of(db: Connection, part: int = 3) -> tuple[Any, ...]:
    row = db.execute(
        "SELECT next_offset, published_offset, to_us(stream_time), ticks FROM stream_progress "
        "WHERE topic = %s AND part = %s",
        [RAW.name, part],
    ).fetchone()
    assert row is not None
    return row


def test_a_partition_that_nobody_had_begins_at_nought(db: Connection):
    taken = take_over(db, RAW.name, 3)
    assert taken[2:] == (0, 0, 0, {})
    assert taken.epoch > 0


def test_a_new_owner_finds_what_the_last_one_left(db: Connection, other: Connection):
    first = take_over(db, RAW.name, 3)
    assert advance(db, RAW.name, [step(first, 500, published=400, ticks={"s0": NOW, "s1": 5})])
    second = take_over(other, RAW.name, 3)
    assert second[2:] == (500, 400, NOW, {"s0": NOW, "s1": 5})
    assert second.epoch != first.epoch


def test_a_second_taker_fences_the_first_out(db: Connection, other: Connection):
    first = take_over(db, RAW.name, 3)
    second = take_over(other, RAW.name, 3)
    with pytest.raises(FencedOut, match=r"energy\.raw\.v1\[3\]: another worker has taken over"):
        advance(db, RAW.name, [step(first, 10)])
    assert advance(other, RAW.name, [step(second, 20)])
    assert progress_of(db)[0] == 20


def test_nothing_of_a_fenced_transaction_is_stored(db: Connection, other: Connection):
    first = take_over(db, RAW.name, 3)
    take_over(other, RAW.name, 3)

    def store() -> None:
        with db.transaction():
            note_log_gap(db, RAW.name, 3, 0, 5)
            advance(db, RAW.name, [step(first, 10)])

    with pytest.raises(FencedOut):
        store()
    assert db.execute("SELECT count(*) FROM log_gap").fetchone() == (0,)


def test_partitions_move_together_or_not_at_all(db: Connection, other: Connection):
    three, four = take_over(db, RAW.name, 3), take_over(db, RAW.name, 4)
    assert advance(db, RAW.name, [step(three, 10), step(four, 20)])
    take_over(other, RAW.name, 4)
    with pytest.raises(FencedOut, match=r"\[4\]"), db.transaction():
        advance(db, RAW.name, [step(three, 11, expected=10), step(four, 21, expected=20)])
    assert (progress_of(db, 3)[0], progress_of(db, 4)[0]) == (10, 20)


def test_an_offset_that_is_not_where_it_was_left_is_a_second_writer(db: Connection):
    taken = take_over(db, RAW.name, 3)
    advance(db, RAW.name, [step(taken, 10)])
    with pytest.raises(FencedOut, match="the offset is not where it was left"):
        advance(db, RAW.name, [step(taken, 15, expected=7)])


def test_a_step_whose_commit_was_answered_to_nobody_is_recognised(db: Connection):
    """The connection broke after COMMIT was sent: the same transaction is tried again."""
    three, four = take_over(db, RAW.name, 3), take_over(db, RAW.name, 4)
    steps = [step(three, 10), step(four, 20)]
    assert advance(db, RAW.name, steps) is True
    assert advance(db, RAW.name, steps) is False
    assert (progress_of(db, 3)[0], progress_of(db, 4)[0]) == (10, 20)


def test_a_step_that_was_stored_before_somebody_took_over_is_fenced(
    db: Connection, other: Connection
):
    taken = take_over(db, RAW.name, 3)
    advance(db, RAW.name, [step(taken, 10)])
    take_over(other, RAW.name, 3)
    with pytest.raises(FencedOut):
        advance(db, RAW.name, [step(taken, 10)])


def test_a_transaction_that_only_announces_again_moves_nothing(db: Connection):
    taken = take_over(db, RAW.name, 3)
    advance(db, RAW.name, [step(taken, 10)])
    assert advance(db, RAW.name, [step(taken, 10, expected=10, published=9)]) is True
    assert progress_of(db)[:2] == (10, 9)


def test_the_published_offset_never_goes_back(db: Connection):
    taken = take_over(db, RAW.name, 3)
    advance(db, RAW.name, [step(taken, 10, published=8)])
    advance(db, RAW.name, [step(taken, 20, expected=10, published=5)])
    assert progress_of(db)[1] == 8
    note_published(db, RAW.name, [(3, taken.epoch, 6)])
    assert progress_of(db)[1] == 8
    note_published(db, RAW.name, [(3, taken.epoch, 15)])
    assert progress_of(db)[1] == 15


def test_a_worker_that_is_fenced_out_notes_nothing_published(db: Connection, other: Connection):
    first = take_over(db, RAW.name, 3)
    advance(db, RAW.name, [step(first, 10)])
    second = take_over(other, RAW.name, 3)
    note_published(db, RAW.name, [(3, first.epoch, 10)])
    assert progress_of(db)[1] == 0
    note_published(other, RAW.name, [(3, second.epoch, 10)])
    assert progress_of(db)[1] == 10


def announcements(db: Connection) -> list[tuple[int, int]]:
    return db.execute("SELECT part, log_offset FROM announcement ORDER BY 1, 2").fetchall()


def announce(db: Connection, part: int, offset: int) -> None:
    db.execute("INSERT INTO announcement VALUES (%s, %s, ARRAY[1], ARRAY[now()])", [part, offset])


def test_announcements_are_forgotten_once_they_are_published(db: Connection):
    three, four = take_over(db, RAW.name, 3), take_over(db, RAW.name, 4)
    for part, offset in ((3, 9), (3, 10), (3, 11), (4, 9)):
        announce(db, part, offset)
    note_published(db, RAW.name, [(3, three.epoch, 11), (4, four.epoch, 5)])
    assert announcements(db) == [(3, 11), (4, 9)]


def test_a_taker_waits_for_a_predecessors_transaction(db: Connection, other: Connection):
    first = take_over(db, RAW.name, 3)
    inside, go_on = threading.Event(), threading.Event()

    def store() -> None:
        with db.transaction():
            advance(db, RAW.name, [step(first, 10)])
            inside.set()
            go_on.wait(10)

    worker = threading.Thread(target=store)
    worker.start()
    assert inside.wait(10)
    threading.Timer(0.7, go_on.set).start()
    begun = time.monotonic()
    second = take_over(other, RAW.name, 3)
    worker.join()
    assert 0.6 < time.monotonic() - begun < 2.9
    assert second.next_offset == 10, "what it committed counts"


def test_a_predecessor_that_is_stuck_in_a_transaction_is_ended_after_three_seconds(
    db: Connection, other: Connection
):
    first = take_over(other, RAW.name, 3)
    stuck = other.transaction()
    stuck.__enter__()
    advance(other, RAW.name, [step(first, 10)])
    begun = time.monotonic()
    second = take_over(db, RAW.name, 3)
    assert 2.5 < time.monotonic() - begun < 10
    assert second.next_offset == 0, "nothing of it was committed"
    with pytest.raises(psycopg.OperationalError):
        other.execute("SELECT 1")
    assert advance(db, RAW.name, [step(second, 7)])


def test_offsets_that_the_log_no_longer_holds_are_noted_once(db: Connection):
    for _ in range(2):
        note_log_gap(db, RAW.name, 3, 100, 250)
    assert db.execute("SELECT topic, part, from_offset, to_offset FROM log_gap").fetchall() == [
        (RAW.name, 3, 100, 250)
    ]
