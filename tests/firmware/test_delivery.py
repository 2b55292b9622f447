"""From the outbox to the broker: the window, the order, and sending again."""

import json
import os
from pathlib import Path

import pytest
from node.bodies import clamp_values, measured
from node.ct_clamp import SAMPLES, CtClamp, power_dw
from node.decimals import decimal
from node.delivery import PACKET_IDS, RESEND_AFTER_MS, WINDOW, Delivery
from node.outbox import UNIX, UPTIME, Outbox

STARTED_MS = 1_763_700_000_123

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""An outbox keeps its newest file open for as long as the node runs."""


class Link:
    """The client's side of a delivery: takes `room` messages."""

    def __init__(self) -> None:
        self.up = True
        self.connections = 1
        self.room = 10**6
        self.sent: list[tuple[dict[str, object], int, bool]] = []

    def publish(self, topic: str, payload: bytes, packet_id: int, again: bool) -> bool:
        assert topic == "t"
        if not self.room:
            return False
        self.room -= 1
        self.sent.append((json.loads(payload), packet_id, again))
        return True

    def taken(self) -> list[object]:
        """The seqs sent since the last call."""
        seqs = [said["seq"] for said, _, _ in self.sent]
        self.sent.clear()
        return seqs


class Bench:
    def __init__(self, folder: Path, messages: int) -> None:
        self.outbox = Outbox(str(folder), os.urandom)
        self.add(messages)
        self.link = Link()
        self.delivery = Delivery(self.outbox, self.link, "t")

    def add(self, messages: int) -> None:
        for n in range(messages):
            self.outbox.append([(UNIX, STARTED_MS + n, b'"channels":{}')])

    def acknowledge(self, seq: int, now_ms: int = 0) -> bool:
        return self.delivery.acknowledged(self.outbox.boot, seq, now_ms)


def test_the_envelope_is_what_the_connector_expects(tmp_path: Path):
    bench = Bench(tmp_path, 2)
    bench.delivery.step(0)
    said, packet_id, again = bench.link.sent[1]
    assert said == {
        "v": 1, "boot": bench.outbox.boot, "seq": 2, "first": 1, "ts": 1_763_700_000.124,
        "channels": {},
    }  # fmt: skip
    assert (packet_id, again) == (3, False)


def test_at_most_a_window_is_under_way(tmp_path: Path):
    bench = Bench(tmp_path, WINDOW + 50)
    bench.delivery.step(0)
    bench.delivery.step(1)
    assert bench.link.taken() == list(range(1, WINDOW + 1))
    bench.acknowledge(30)
    bench.delivery.step(2)
    assert bench.link.taken() == list(range(WINDOW + 1, WINDOW + 31))


def test_what_finds_no_room_is_sent_next_in_order(tmp_path: Path):
    bench = Bench(tmp_path, 10)
    for _ in range(12):
        bench.link.room = 1
        bench.delivery.step(0)
    assert bench.link.taken() == list(range(1, 11))


def test_without_progress_all_is_sent_again_at_growing_intervals(tmp_path: Path):
    bench = Bench(tmp_path, 3)
    times = []
    for now_ms in range(0, 80_000, 1_000):
        bench.delivery.step(now_ms)
        if bench.link.sent:
            assert [again for _, _, again in bench.link.sent] == [now_ms > 0] * 3
            assert bench.link.taken() == [1, 2, 3]
            times.append(now_ms)
    assert times == [0, RESEND_AFTER_MS, 3 * RESEND_AFTER_MS, 7 * RESEND_AFTER_MS]


def test_what_is_sent_again_names_the_oldest_that_is_unacknowledged_now(tmp_path: Path):
    bench = Bench(tmp_path, 5)
    bench.delivery.step(0)
    bench.link.taken()
    bench.acknowledge(3)
    bench.link.connections += 1
    bench.delivery.step(1)
    assert [(said["seq"], said["first"], again) for said, _, again in bench.link.sent] == [
        (4, 4, True),
        (5, 4, True),
    ]


def test_a_new_connection_sends_from_the_oldest_with_the_same_packet_ids(tmp_path: Path):
    bench = Bench(tmp_path, 4)
    bench.delivery.step(0)
    before = [packet_id for _, packet_id, _ in bench.link.sent]
    bench.link.taken()
    bench.link.up = False
    bench.delivery.step(1)
    assert bench.link.sent == []
    bench.link.up, bench.link.connections = True, 2
    bench.delivery.step(2)
    assert [packet_id for _, packet_id, _ in bench.link.sent] == before
    assert max(before) <= PACKET_IDS


def test_an_acknowledgement_of_another_outbox_strikes_nothing(tmp_path: Path):
    bench = Bench(tmp_path, 2)
    assert not bench.delivery.acknowledged("other", 2, 0)
    assert not bench.acknowledge(3)
    assert not bench.delivery.idle
    assert bench.acknowledge(2)
    assert bench.delivery.idle


def test_a_reading_that_waits_for_the_clock_holds_back_those_behind_it(tmp_path: Path):
    bench = Bench(tmp_path, 1)
    bench.outbox.append([(UPTIME, 5, b'"channels":{}')])
    bench.delivery.step(0)
    assert bench.link.taken() == [1]
    bench.outbox.clock_known(STARTED_MS)
    bench.add(1)
    bench.delivery.step(1)
    assert bench.link.taken() == [2, 3]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(2257, 1, "225.7"), (5, 3, "0.005"), (0, 2, "0.00"), (-15, 1, "-1.5"), (38, 0, "38")],
)
def test_steps_become_decimals(value: int, digits: int, text: str):
    assert decimal(value, digits) == text


def test_a_clamps_current_is_the_effective_value_around_its_mean():
    """A square wave of 33 mV around 1,650 at 33 ohm and 2000 turns: 1 mA, times 2000."""
    index = iter(range(10**6))
    waited: list[int] = []
    clamp = CtClamp(
        lambda: 1650 + (33 if next(index) % 40 < 20 else -33),
        lambda: 7,
        lambda start, offset: waited.append(offset + start - 7),
    )
    assert clamp.current_ma(2000, 33_000) == 2000
    assert clamp.current_ma(2000, 33_000, gain_permille=1010) == 2020
    assert waited[:SAMPLES] == list(range(0, 200_000, 500)), "400 samples in ten periods of 50 Hz"
    assert CtClamp(lambda: 1650, lambda: 0, lambda *_: None).current_ma(2000, 33_000) == 0


def test_a_clamp_tells_the_power_of_an_assumed_voltage():
    assert power_dw(2000, 2300, 100) == 4600
    assert measured([("clamp", clamp_values(2000, 4600))]) == (
        b'"channels":{"clamp":{"power_w":460.0,"current_a":2.000}}'
    )


def test_only_what_was_written_since_the_start_proves_the_firmware_that_runs(tmp_path: Path):
    """An acknowledgement may have waited at the broker since before an update."""
    before = Bench(tmp_path, 3)
    assert before.delivery.is_own(3) is False, "they were there when it started"
    before.add(1)
    assert before.delivery.is_own(3) is False
    assert before.delivery.is_own(4) is True
