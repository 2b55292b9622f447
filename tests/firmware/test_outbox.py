"""The outbox on flash: what was written is there after any power cut, in order, once."""

import builtins
import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node import outbox as outbox_module
from node import segment
from node.outbox import TIMELESS, UNIX, UPTIME, Outbox

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""A power cut closes no file."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a power cut left open is closed here, not in another test."""
    yield
    gc.collect()


STARTED_MS = 1_763_700_000_000


def opened(folder: Path, most_parts: int = 64) -> Outbox:
    return Outbox(str(folder), os.urandom, most_parts)


def all_of(outbox: Outbox) -> list[tuple[int, int | None, bytes]]:
    """Everything that can be sent, from the oldest unacknowledged on."""
    found: list[tuple[int, int | None, bytes]] = []
    seq = outbox.first
    while messages := outbox.read(seq, 7):
        found += [(one.seq, one.at_ms, one.body) for one in messages]
        seq = found[-1][0] + 1
    return found


def body(number: int) -> bytes:
    return b"m%d" % number * (1 + number % 5)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEGMENT_BYTES", 160)


def test_messages_come_back_in_order_with_their_own_time(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.append([(UNIX, STARTED_MS + n, body(n)) for n in range(1, 6)])
    again = opened(tmp_path)
    assert again.boot == outbox.boot
    assert all_of(again) == [(n, STARTED_MS + n, body(n)) for n in range(1, 6)]
    assert (again.first, again.next_seq, again.waiting) == (1, 6, 5)


def test_seq_goes_on_after_everything_was_acknowledged(tmp_path: Path, small_parts: None) -> None:
    outbox = opened(tmp_path)
    for n in range(40):
        outbox.append([(UNIX, STARTED_MS + n, body(n))])
    assert outbox.acknowledge(outbox.boot, 40)
    assert (outbox.first, outbox.waiting) == (41, 0)
    assert len(list(tmp_path.iterdir())) == 1, "all files but the newest are gone"
    again = opened(tmp_path)
    assert (again.next_seq, again.boot) == (41, outbox.boot)


def test_a_restart_sends_no_more_than_a_file_again(tmp_path: Path, small_parts: None) -> None:
    outbox = opened(tmp_path)
    for n in range(40):
        outbox.append([(UNIX, STARTED_MS + n, b"x" * 40)])
    outbox.acknowledge(outbox.boot, 39)
    assert opened(tmp_path).first >= 38


def test_an_acknowledgement_that_cannot_be_strikes_nothing(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.append([(UNIX, STARTED_MS, b"x")])
    assert not outbox.acknowledge("00000000", 1)
    assert not outbox.acknowledge(outbox.boot, 2)
    assert not outbox.acknowledge(outbox.boot, -1)
    assert outbox.first == 1
    assert outbox.acknowledge(outbox.boot, 1)
    assert outbox.acknowledge(outbox.boot, 0), "a late one is true, and changes nothing"
    assert outbox.waiting == 0


def test_a_full_ring_drops_the_oldest_and_counts_it_for_ever(
    tmp_path: Path, small_parts: None
) -> None:
    outbox = opened(tmp_path, most_parts=4)
    for n in range(1, 51):
        outbox.append([(UNIX, n, b"x" * 40)])  # two to a file
    assert len(list(tmp_path.iterdir())) == 4
    assert outbox.first == 43
    assert outbox.dropped == 42
    assert [one[0] for one in all_of(outbox)] == list(range(43, 51))
    again = opened(tmp_path, most_parts=4)
    assert (again.dropped, again.first) == (42, 43)
    again.acknowledge(again.boot, 50)
    for n in range(51, 59):
        again.append([(UNIX, n, b"x" * 40)])
    assert again.dropped == 42, "what was acknowledged is not dropped"


def test_readings_before_the_clock_wait_and_get_their_time(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.append([(TIMELESS, 0, b"hello"), (UPTIME, 1_000, b"a"), (UPTIME, 11_000, b"b")])
    assert all_of(outbox) == [(1, None, b"hello")], "what needs no time goes ahead"
    outbox.clock_known(STARTED_MS)
    outbox.append([(UNIX, STARTED_MS + 21_000, b"c")])
    expected = [
        (1, None, b"hello"),
        (2, STARTED_MS + 1_000, b"a"),
        (3, STARTED_MS + 11_000, b"b"),
        (4, STARTED_MS + 21_000, b"c"),
    ]
    assert all_of(outbox) == expected
    assert all_of(opened(tmp_path)) == expected, "the same time after a restart: no second key"


def test_cycles_that_never_had_a_clock_end_just_before_the_next(tmp_path: Path) -> None:
    opened(tmp_path).append([(UPTIME, 5_000, b"a"), (UPTIME, 60_000, b"b")])
    opened(tmp_path).append([(UPTIME, 7_000, b"c")])
    third = opened(tmp_path)
    third.append([(UPTIME, 3_000, b"d")])
    assert all_of(third) == []
    third.clock_known(STARTED_MS)
    expected = [
        (1, STARTED_MS - 8_000 - 61_000 + 5_000, b"a"),
        (2, STARTED_MS - 8_000 - 61_000 + 60_000, b"b"),
        (3, STARTED_MS - 8_000 + 7_000, b"c"),
        (4, STARTED_MS + 3_000, b"d"),
    ]
    assert all_of(third) == expected
    later = opened(tmp_path)
    later.clock_known(STARTED_MS + 86_400_000)
    assert all_of(later) == expected, "told once, it stays"


def test_a_body_that_is_too_long_is_refused_and_nothing_written(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    with pytest.raises(ValueError, match="1025 bytes"):
        outbox.append([(UNIX, 0, b"x"), (UNIX, 0, b"y" * 1025)])
    assert outbox.waiting == 0


def test_a_flash_that_takes_nothing_says_how_many_it_took(
    tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(tmp_path)
    assert outbox.append([(UNIX, 1, b"x" * 40)]) == 1
    room = Flash(60, OSError(28, "no space"))
    room.install(monkeypatch)
    assert outbox.append([(UNIX, n, b"x" * 40) for n in range(2, 9)]) == 1
    monkeypatch.undo()
    assert outbox.append([(UNIX, 9, b"z")]) == 1
    assert [one[2] for one in all_of(opened(tmp_path))] == [b"x" * 40, b"x" * 40, b"z"]


def test_a_damaged_record_in_the_middle_costs_what_is_behind_it_and_no_seq_twice(
    tmp_path: Path,
) -> None:
    outbox = opened(tmp_path)
    for n in range(1, 7):
        outbox.append([(UNIX, n, b"x" * 40)])
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[20 + 2 * 57 + 20] ^= 1  # in the third record's body
    path.write_bytes(data)
    again = opened(tmp_path)
    assert [one[0] for one in all_of(again)] == [1, 2]
    assert again.damaged == 1
    assert again.next_seq > 6, "seqs that may have been sent are not given again"
    again.append([(UNIX, 9, b"new")])
    assert all_of(again)[-1][2] == b"new"


@given(st.binary(max_size=300), st.integers(0, 2))
def test_whatever_lies_on_the_flash_it_opens(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    outbox = opened(folder)
    outbox.append([(UNIX, 1, b"kept")])
    name = ["00000000.seg", "00000002.seg", "other"][where]
    (folder / name).write_bytes(junk)
    again = opened(folder)
    assert [one[2] for one in all_of(again)] == [b"kept"]
    again.append([(UNIX, 2, b"new")])
    assert [one[2] for one in all_of(opened(folder))] == [b"kept", b"new"]


# ---- power cuts ----


class PowerCut(BaseException):
    """Not an OSError: nobody survives it."""


class Flash:
    """The medium: takes so many bytes, and one more for every file made or removed, then fails."""

    def __init__(self, budget: int, failure: BaseException) -> None:
        self.left = budget
        self.spent = 0
        self._failure = failure

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(outbox_module, "open", self.open, raising=False)
        patch.setattr(outbox_module.os, "remove", self._remove(os.remove))

    def spend(self, bytes_: int) -> int:
        taken = min(bytes_, self.left)
        self.left -= taken
        self.spent += taken
        return taken

    def open(self, path: str, mode: str) -> Any:
        if mode == "wb" and not self.spend(1):
            raise self._failure
        file = builtins.open(path, mode, buffering=0)  # noqa: SIM115
        return file if mode == "rb" else File(file, self)

    def fail(self) -> BaseException:
        return self._failure

    def _remove(self, remove: Callable[[str], None]) -> Callable[[str], None]:
        def removed(path: str) -> None:
            if isinstance(self._failure, PowerCut) and not self.spend(1):
                raise self._failure
            remove(path)

        return removed


class File:
    def __init__(self, file: Any, flash: Flash) -> None:
        self._file = file
        self._flash = flash

    def write(self, data: bytes) -> int:
        taken = self._flash.spend(len(data))
        self._file.write(data[:taken])
        if taken < len(data):
            raise self._flash.fail()
        return taken

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class Told:
    """What the outbox has promised so far, kept beside it."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}  # seq -> body, for which `append` came back
        self.tried: set[bytes] = set()
        self.acked = 0
        self.boot: str | None = None


def life(folder: Path, told: Told, parts: int) -> None:
    """Starts, batches, clocks and acknowledgements, until the power goes."""
    chance = random.Random(1)
    number = 0
    for _ in range(3):
        outbox = opened(folder, most_parts=parts)
        for _ in range(7):
            bodies = [b"%d:" % (number := number + 1) * chance.randint(1, 12) for _ in range(2)]
            kind = chance.choice([UNIX, UPTIME, TIMELESS])
            before = outbox.next_seq
            told.tried.update(bodies)
            if outbox.append([(kind, number, one) for one in bodies]) == 2:
                told.written.update({before: bodies[0], before + 1: bodies[1]})
                told.boot = outbox.boot
            if chance.random() < 0.2:
                outbox.clock_known(STARTED_MS)
            if chance.random() < 0.4:
                upto = chance.randint(outbox.first - 1, outbox.next_seq - 1)
                told.acked = max(told.acked, upto)
                outbox.acknowledge(outbox.boot, upto)


@pytest.mark.parametrize("parts", [64, 4])
def test_power_cut_at_every_byte_loses_nothing_that_was_written(
    tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    (whole := tmp_path / "whole").mkdir()
    flash = Flash(10**9, PowerCut())
    with monkeypatch.context() as patch:
        flash.install(patch)
        life(whole, Told(), parts)
    assert flash.spent > 1_500
    for cut in range(flash.spent):
        folder = tmp_path / str(cut)
        folder.mkdir()
        told = Told()
        with monkeypatch.context() as patch:
            Flash(cut, PowerCut()).install(patch)
            with pytest.raises(PowerCut):
                life(folder, told, parts)
        check(folder, told, parts)


def check(folder: Path, told: Told, parts: int) -> None:
    outbox = opened(folder, parts)
    outbox.clock_known(STARTED_MS)
    kept = {seq: text for seq, _, text in all_of(outbox)}
    owed = {seq: text for seq, text in told.written.items() if seq > told.acked}
    if parts < 64:  # the ring may have dropped its oldest, and has counted them
        gone = [seq for seq in owed if seq < outbox.first]
        assert len(gone) <= outbox.dropped
        owed = {seq: text for seq, text in owed.items() if seq not in gone}
    assert owed.items() <= kept.items(), f"lost: {folder}"
    assert set(kept.values()) <= told.tried, f"invented: {folder}"
    assert list(kept) == sorted(kept)
    if told.written:
        assert outbox.boot == told.boot, f"forgot its name: {folder}"
        assert outbox.next_seq > max(told.written), f"a seq twice: {folder}"
    outbox.append([(UNIX, 1, b"after")])
    assert all_of(opened(folder, parts))[-1][2] == b"after"


def test_a_record_knows_its_own_length() -> None:
    record = segment.packed_record(UNIX, 1, 5, b"abc")
    assert len(record) == segment.OVERHEAD_BYTES + 3
    assert len(segment.packed_header(segment.Header(b"boot", 1, 0))) == segment.HEADER_BYTES
