"""Who is online, late or offline follows from the log alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.models import Model, contract_of, shipped_models
from schemas.presence import Presence, PresenceReason
from schemas.topics import RawHeader
from schemas.units import SECOND_US
from streams.presence.reading import Tick, read
from streams.presence.watch import DEAF_US, Change, Heard, Watch, Watched

ONLINE, LATE, OFFLINE = Presence
FIRST, HEARD, SAID, SILENCE = PresenceReason
CONTRACT = Model("m", "homesync", 10, 60, 300)
START_US = 1_800_000_000 * SECOND_US


def s(seconds: float) -> int:
    return START_US + round(seconds * SECOND_US)


class Log:
    """Feeds a watch with devices that all have the contract 60 s late, 300 s offline."""

    def __init__(self) -> None:
        self.watch = Watch(3, 0, 0, 0, {})
        self.devices: dict[int, Watched] = {}
        self.said: list[Change] = []
        self.offset = 0

    def device(self, number: int = 1) -> Watched:
        return self.devices.setdefault(
            number, Watched(number, f"homesync:h/{number}", "h", CONTRACT)
        )

    def hear(
        self, at: float, says: bool | None = None, number: int = 1, *, retained: bool = False
    ) -> None:
        self.offset += 1
        heard = Heard(s(at), says, retained)
        self.said += self.watch.hear(self.device(number), heard, self.offset)

    def tick(self, *at: float, shard: str = "0") -> None:
        for each in at:
            self.offset += 1
            self.said += self.watch.tick(shard, s(each), s(each), self.offset)

    def ticks(self, start: int, end: int) -> None:
        self.tick(*range(start, end))

    @property
    def told(self) -> list[tuple[Presence, float, PresenceReason]]:
        return [(c.state, (c.since_us - START_US) / SECOND_US, c.reason) for c in self.said]


def test_a_silent_device_is_late_and_offline_at_the_times_of_its_contract():
    log = Log()
    log.tick(0)
    log.hear(0.5)
    log.hear(10.5)
    log.ticks(1, 70)
    assert log.told == [(ONLINE, 0.5, FIRST)]
    log.ticks(70, 310)
    assert log.told[1:] == [(LATE, 70.5, SILENCE)]
    log.ticks(310, 400)
    assert log.told[2:] == [(OFFLINE, 310.5, SILENCE)]
    assert [change.heard_us for change in log.said] == [None, s(10.5), s(10.5)]
    log.hear(400.25)
    assert log.told[3:] == [(ONLINE, 400.25, HEARD)]
    assert log.said[3].heard_us == s(10.5)
    log.ticks(400, 462)
    assert log.told[4:] == [(LATE, 460.25, SILENCE)]


def test_a_last_will_is_believed_at_once_and_a_message_after_it_as_well():
    log = Log()
    log.tick(0)
    log.hear(1)
    log.hear(5, False)
    log.hear(5.5, False)
    log.hear(6)
    log.hear(7, True)
    assert log.told == [(ONLINE, 1, FIRST), (OFFLINE, 5, SAID), (ONLINE, 6, HEARD)]


def test_a_retained_word_is_no_sign_of_life_but_a_retained_farewell_counts():
    log = Log()
    log.tick(0)
    log.hear(1, True, retained=True)
    assert log.told == []
    log.hear(2)
    log.hear(3, True, retained=True)
    log.ticks(1, 62)
    assert log.told == [(ONLINE, 2, FIRST)]
    log.tick(62)
    assert log.told[1:] == [(LATE, 62, SILENCE)]
    log.hear(63, False, retained=True)
    assert log.told[2:] == [(OFFLINE, 63, SAID)]


def test_who_was_not_listened_to_is_not_called_silent():
    """The connector was away for ten minutes: no device is late for that."""
    log = Log()
    log.tick(0)
    log.hear(0.5)
    log.tick(1, 601)
    assert log.told == [(ONLINE, 0.5, FIRST)]
    log.ticks(602, 661)
    assert log.told == [(ONLINE, 0.5, FIRST)]
    log.tick(661)
    assert log.told[1:] == [(LATE, 661, SILENCE)]
    log.ticks(662, 902)
    assert log.told[2:] == [(OFFLINE, 901, SILENCE)]


def test_ticks_as_far_apart_as_is_allowed_keep_time():
    log = Log()
    log.tick(0)
    log.hear(0)
    step = DEAF_US / SECOND_US
    log.tick(step, 2 * step)
    assert log.told == [(ONLINE, 0, FIRST), (LATE, 60, SILENCE)]


def test_a_new_contract_holds_from_the_next_tick_on():
    log = Log()
    log.tick(0)
    log.hear(0)
    log.ticks(1, 30)
    device = log.device()
    device.contract = Model("slow", "homesync", 600, 1200, 3600)
    log.watch.schedule(device)
    log.ticks(30, 1200)
    assert log.told == [(ONLINE, 0, FIRST)]
    device.contract = Model("fast", "homesync", 1, 5, 10)
    log.watch.schedule(device)
    log.tick(1200)
    assert log.told[1:] == [(LATE, 5, SILENCE), (OFFLINE, 10, SILENCE)]


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, int, bool | None]]:
    """(second, device or 0 for a tick, what it says): ticks each second, some of them missing."""
    records: list[tuple[int, int, bool | None]] = []
    for second in range(draw(st.integers(1, 500))):
        if draw(st.integers(0, 40)):
            records.append((second, 0, None))
        if draw(st.integers(0, 30)) == 0:
            number = draw(st.integers(1, 3))
            records.append((second, number, draw(st.sampled_from([None, None, True, False]))))
    return records


def fed(log: Log, records: list[tuple[int, int, bool | None]]) -> None:
    for at, number, says in records:
        if number:
            log.hear(at + number / 10, says, number)
        else:
            log.tick(at)


@given(logs(), st.data())
def test_read_again_from_an_older_place_the_log_changes_nothing(
    records: list[tuple[int, int, bool | None]], data: st.DataObject
):
    """A crash: devices are as they were at the last change, the offset is that of a checkpoint."""
    whole = Log()
    fed(whole, records)
    cut = data.draw(st.integers(0, len(records)))
    checkpoint = data.draw(st.integers(0, cut))
    first, second = Log(), Log()
    fed(first, records[:checkpoint])
    watch = first.watch
    place = (watch.stream_us, watch.resumed_us, dict(watch.ticks))
    heard = {n: (d.heard_us, d.folded_us, d.since_us, d.state) for n, d in first.devices.items()}
    fed(first, records[checkpoint:cut])
    changed = {change.device.device_id for change in first.said}
    second.watch = Watch(3, 0, *place)
    for number, device in first.devices.items():
        left = second.device(number)
        now = (device.heard_us, device.folded_us, device.since_us, device.state)
        stored = now if number in changed else heard.get(number)
        if stored is not None and stored[3] is not None:
            left.heard_us, left.folded_us, left.since_us, left.state = stored
            second.watch.schedule(left)
    fed(second, records[checkpoint:])
    told = {(c.device.device_id, c.since_us, c.state) for c in [*first.said, *second.said]}
    assert told == {(c.device.device_id, c.since_us, c.state) for c in whole.said}
    states = {n: d.state for n, d in whole.devices.items()}
    assert {n: second.device(n).state for n in states} == states


def headers(topic: str, source: bytes = b"mqtt", *more: tuple[str, bytes]) -> list:
    return [
        (RawHeader.TOPIC, topic.encode()),
        (RawHeader.RECEIVED_AT, b"1800000000000000"),
        (RawHeader.SOURCE, source),
        (RawHeader.SHARD, b"0"),
        *more,
    ]


@pytest.mark.parametrize(
    ("topic", "payload", "says"),
    [
        ("homesync/h1/nodes/n1/online", b"offline", False),
        ("homesync/h1/nodes/n1/online", b"online", True),
        ("homesync/h1/nodes/n1/status", b'{"status": "offline"}', False),
        ("homesync/h1/nodes/n1/status", b'{"rssi": -61}', None),
        ("homesync/h1/nodes/n1/telemetry/main", b"offline", None),
        ("shellies/shelly1-x/online", b"false", False),
        ("shellypro3em-ec6260890b50/online", b"true", True),
        ("devices/w1/status", b"offline", False),
        ("devices/w1/status", b"\xff", None),
    ],
)
def test_only_a_status_says_that_a_device_is_gone(topic: str, payload: bytes, says: bool | None):
    assert read(headers(topic), payload) == Heard(START_US, says)


def test_retained_imported_and_strange_records_are_told_apart():
    topic = "homesync/h1/nodes/n1/online"
    retained = headers(topic, b"mqtt", (RawHeader.RETAINED, b"1"))
    assert read(retained, b"offline") == Heard(START_US, False, True)
    assert read(headers(topic, b"import"), b"online") is None
    assert read(headers(topic, b"poll"), b"online") == Heard(START_US, True)
    tick = [(RawHeader.SHARD, b"a"), (RawHeader.TICK, b"17")]
    assert read(tick, b"") == Tick("a", 17)
    assert read([], b"") is None
    assert read([(RawHeader.SHARD, b"a"), (RawHeader.TICK, b"soon")], b"") is None


def test_every_shipped_model_has_a_contract_in_order():
    models = shipped_models()
    for model in models.values():
        assert 0 < model.expected_interval_s <= model.late_after_s < model.offline_after_s
    assert contract_of(models, "shelly", "SPEM-003CEBEU").late_after_s == 60
    assert contract_of(models, "shelly", "nobody knows").name == "family:shelly"
    assert contract_of(models, "z2m", None).name == "family:z2m"
