"""What the downlink decides, without a broker and without Kafka: told what came, and the time."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.downlink.book import Book, Entry, Stage
from schemas.command import CommandEvent, CommandRequest, CommandState, Kind
from schemas.units import SECOND_US

NOW_US = 1_763_706_000_000_000
SHELLY, NODE = "shelly:plug", "homesync:h1/n1"


def request(
    seq: int, address: str = SHELLY, kind: Kind = Kind.ON, lives_s: float = 30, device_id: int = 1
) -> CommandRequest:
    return CommandRequest(
        command_id=f"{device_id}-{seq}",
        command_seq=seq,
        device_id=device_id,
        address=address,
        kind=kind,
        channel=None,
        parameters={},
        issued_us=NOW_US,
        expires_us=NOW_US + int(lives_s * SECOND_US),
        issued_by="user:u1",
    )


def event(of: CommandRequest, state: CommandState) -> CommandEvent:
    return CommandEvent(of.command_id, of.device_id, of.address, state, NOW_US)


class Desk:
    """A book, and a broker that says what it is told to say."""

    def __init__(self) -> None:
        self.book = Book()
        self.book.begin({0: 0})
        self.now_us = NOW_US
        self.said: list[tuple[str, CommandState, str | None]] = []
        self.offset = self.event_offset = 0

    def take(self, one: CommandRequest) -> None:
        self.book.take(one, 0, self.offset, self.now_us)
        self.offset += 1

    def hear(self, one: CommandEvent) -> None:
        self.book.heard(one, 0, self.event_offset)
        self.event_offset += 1

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)

    def work(self, room: int = 100) -> list[Entry]:
        """One round of the process; what it published is in flight."""
        verdicts = self.book.verdicts(self.now_us)
        chosen = self.book.next(self.now_us, room)
        verdicts += [self.book.sent_event(entry, self.now_us) for entry in chosen if not entry.said]
        self.said += [(one.command_id, one.state, one.reason) for one in verdicts]
        for entry in chosen:
            entry.said = True
            self.book.published(entry, self.now_us)
        return chosen

    def ids(self) -> list[str]:
        return [entry.request.command_id for entry in self.work()]


def test_it_is_said_to_be_sent_and_sent_once():
    desk = Desk()
    desk.take(request(1))
    (entry,) = desk.work()
    assert desk.said == [("1-1", CommandState.SENT, None)]
    assert (entry.outgoing.topic, entry.expiry_s(desk.now_us)) == ("plug/rpc", 29)
    desk.book.taken(entry)
    desk.wait(10)
    assert not desk.ids()
    assert not len(desk.book)
    assert desk.book.positions() == [(0, 1, 0)]


def test_the_same_request_twice_is_one_command():
    desk = Desk()
    one = request(1)
    desk.take(one)
    desk.take(one)
    (entry,) = desk.work()
    desk.book.taken(entry)
    desk.take(one)
    assert not desk.ids()
    assert desk.book.positions() == [(0, 3, 0)]


def test_after_a_lost_connection_only_a_node_is_sent_it_again():
    desk = Desk()
    desk.take(request(1, SHELLY, device_id=1))
    desk.take(request(1, NODE, device_id=2))
    for entry in desk.work():
        desk.book.doubtful(entry)
    assert desk.ids() == ["2-1"]
    assert [state for _, state, _ in desk.said] == [CommandState.SENT] * 2


def test_a_node_is_asked_until_it_answers():
    desk = Desk()
    one = request(1, NODE, lives_s=60)
    desk.take(one)
    times = []
    for _ in range(120):
        for entry in desk.work():
            times.append((desk.now_us - NOW_US) / SECOND_US)
            desk.book.taken(entry)
        desk.wait(0.25)
        if len(times) == 5 and len(desk.book):
            desk.hear(event(one, CommandState.DONE))
    assert times == [0, 1, 3, 7, 12]
    assert desk.book.positions() == [(0, 1, 1)]
    assert len(desk.said) == 1


def test_a_node_that_received_it_is_asked_slowly_until_it_is_done():
    desk = Desk()
    one = request(1, NODE)
    desk.take(one)
    (entry,) = desk.work()
    desk.book.taken(entry)
    desk.hear(event(one, CommandState.RECEIVED))
    desk.wait(1)
    (entry,) = desk.work()
    desk.book.taken(entry)
    desk.wait(4)
    assert not desk.ids()
    desk.wait(1)
    assert desk.ids() == ["1-1"]


def test_who_did_not_listen_is_sent_it_later_and_nothing_overtakes_it():
    desk = Desk()
    desk.take(request(1))
    desk.take(request(2, kind=Kind.OFF))
    (entry,) = desk.work()
    desk.book.unheard(entry)
    assert not desk.ids()
    desk.wait(1)
    (entry,) = desk.work()
    assert entry.request.command_seq == 1
    desk.book.taken(entry)
    assert desk.ids() == ["1-2"]


def test_a_superseded_one_makes_room():
    desk = Desk()
    desk.take(request(1))
    desk.take(request(2, kind=Kind.OFF))
    (entry,) = desk.work()
    desk.book.unheard(entry)
    desk.hear(event(entry.request, CommandState.SUPERSEDED))
    assert desk.ids() == ["1-2"]


def test_one_message_a_device_is_in_flight():
    desk = Desk()
    for seq in (1, 2):
        desk.take(request(seq, NODE, device_id=1))
        desk.take(request(seq, NODE, device_id=2))
    first = desk.work()
    assert [entry.request.command_id for entry in first] == ["1-1", "2-1"]
    assert not desk.ids()
    desk.book.taken(first[0])
    assert desk.ids() == ["1-2"]


def test_an_unanswered_one_goes_again_before_the_devices_next():
    desk = Desk()
    desk.take(request(1, NODE))
    (entry,) = desk.work()
    desk.book.taken(entry)
    desk.wait(0.4)
    desk.take(request(2, NODE))
    (entry,) = desk.work()  # a moment ago: no need
    assert entry.request.command_seq == 2
    desk.book.taken(entry)
    desk.wait(2.5)
    again = []
    desk.take(request(3, NODE))
    while not again or again[-1] != 3:
        (entry,) = desk.work()
        again.append(entry.request.command_seq)
        desk.book.taken(entry)
    assert again == [1, 2, 3]


def test_expired_before_it_was_sent():
    desk = Desk()
    desk.take(request(1, lives_s=1.9))  # MQTT could bring it too late
    desk.take(request(1, NODE, lives_s=1.9, device_id=2))  # looks itself
    desk.take(request(1, NODE, lives_s=-5, device_id=3))
    assert desk.ids() == ["2-1"]
    late = [(command_id, state) for command_id, state, reason in desk.said if reason]
    assert late == [("1-1", CommandState.EXPIRED), ("3-1", CommandState.EXPIRED)]


def test_nobody_listened_until_it_expired():
    desk = Desk()
    desk.take(request(1, lives_s=5))
    for _ in range(30):
        for entry in desk.work():
            desk.book.unheard(entry)
        desk.wait(0.2)
    assert [state for _, state, _ in desk.said] == [CommandState.SENT, CommandState.EXPIRED]
    assert desk.said[-1][2] == "no device listened on plug/rpc until it expired"
    assert desk.book.positions() == [(0, 1, 0)]


def test_what_a_family_cannot_do_fails_with_the_reason():
    desk = Desk()
    desk.take(request(1, kind=Kind.CALIBRATE))
    assert not desk.ids()
    assert desk.said == [("1-1", CommandState.FAILED, "a Shelly has no calibrate")]
    assert desk.book.positions() == [(0, 1, 0)]


def test_what_could_not_be_said_is_said_later():
    desk = Desk()
    desk.take(request(1, kind=Kind.CALIBRATE))
    desk.book.say_later(desk.book.verdicts(desk.now_us))
    desk.work()
    assert [state for _, state, _ in desk.said] == [CommandState.FAILED]


def test_after_a_crash_the_log_says_what_was_sent():
    """Said, and perhaps published: a Shelly is not sent it again, a node is."""
    desk = Desk()
    shelly, node = request(1, SHELLY, device_id=1), request(1, NODE, device_id=2)
    for one in (shelly, node):
        desk.hear(event(one, CommandState.SENT))
        desk.take(one)
    desk.take(request(2, SHELLY, device_id=1))
    assert desk.ids() == ["2-1", "1-2"]
    assert desk.said == [("1-2", CommandState.SENT, None)]


def test_of_what_was_sent_before_a_crash_nobody_says_that_it_was_not():
    desk = Desk()
    node = request(1, NODE, lives_s=5)
    desk.hear(event(node, CommandState.SENT))
    desk.wait(10)
    desk.take(node)
    assert not desk.ids()
    assert not desk.said
    assert not len(desk.book)


def test_after_a_crash_what_is_over_is_not_begun():
    desk = Desk()
    for seq, state in enumerate([CommandState.DONE, CommandState.CANCELLED, CommandState.EXPIRED]):
        desk.hear(event(request(seq, NODE), state))
        desk.take(request(seq, NODE))
    assert not desk.ids()
    assert not desk.said
    assert desk.book.positions() == [(0, 3, 3)]


def test_another_downlink_said_it_while_we_waited_for_the_broker():
    desk = Desk()
    desk.take(request(1))
    desk.hear(event(request(1), CommandState.SENT))
    assert not desk.ids()


def test_the_position_waits_for_the_oldest_that_is_not_settled():
    desk = Desk()
    desk.hear(event(request(9, device_id=9), CommandState.SENT))
    desk.take(request(1, NODE, device_id=1))
    desk.take(request(1, SHELLY, device_id=2))
    desk.hear(event(request(8, device_id=9), CommandState.SENT))
    for entry in desk.work():
        desk.book.taken(entry)
    assert desk.book.positions() == [(0, 0, 1)]
    desk.hear(event(request(1, NODE), CommandState.DONE))
    assert desk.book.positions() == [(0, 2, 3)]


def test_what_is_settled_is_forgotten_in_the_end():
    desk = Desk()
    desk.take(request(1))
    desk.book.taken(desk.work()[0])
    desk.wait(10_000)
    desk.work()
    desk.book.forget(desk.now_us)
    desk.take(request(1))  # comes again much later: it has expired
    assert not desk.ids()


STEPS = st.sampled_from(["take", "again", "work", "work", "work", "word", "lost", "answer", "wait"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_happens_none_is_sent_late_or_twice_without_leave(data):
    """Random requests, words of the broker, answers, waits and lost connections."""
    desk = Desk()
    flying: list[Entry] = []
    published: dict[str, list[str]] = {}
    order: dict[int, list[int]] = {}
    seqs = dict.fromkeys((1, 2, 3), 0)
    made: dict[str, CommandRequest] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(STEPS):
            case "take":
                device_id = data.draw(st.sampled_from([1, 2, 3]))
                seqs[device_id] += 1
                address = NODE if device_id == 1 else SHELLY
                lives_s = data.draw(st.sampled_from([1, 3, 30]))
                one = request(seqs[device_id], address, Kind.ON, lives_s, device_id)
                one.expires_us += desk.now_us - NOW_US
                made[one.command_id] = one
                desk.take(one)
            case "again" if made:
                desk.take(data.draw(st.sampled_from(sorted(made.values(), key=str))))
            case "work":
                for entry in desk.work(room=data.draw(st.integers(0, 4))):
                    asked = entry.request
                    history = published.setdefault(asked.command_id, [])
                    assert desk.now_us < asked.expires_us
                    assert entry.outgoing.repeatable or not history or history[-1] == "unheard"
                    if not history:
                        first = order.setdefault(asked.device_id, [])
                        assert not first or first[-1] < asked.command_seq
                        first.append(asked.command_seq)
                    assert not any(
                        one.request.device_id == asked.device_id and one.stage is Stage.IN_FLIGHT
                        for one in flying
                    )
                    history.append("flying")
                    flying.append(entry)
            case "word" if flying:
                entry = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
                word = data.draw(st.sampled_from(["taken", "unheard", "refused"]))
                published[entry.request.command_id][-1] = word
                if word == "refused":
                    desk.book.refused(entry, "no", desk.now_us)
                else:
                    getattr(desk.book, word)(entry)
            case "lost":
                for entry in flying:
                    published[entry.request.command_id][-1] = "doubtful"
                    desk.book.doubtful(entry)
                flying.clear()
            case "answer" if published:
                command_id = data.draw(st.sampled_from(sorted(published)))
                desk.hear(event(made[command_id], CommandState.DONE))
            case "wait":
                desk.wait(data.draw(st.sampled_from([0.1, 1.5, 40])))
    for entry in flying:
        desk.book.doubtful(entry)
    desk.wait(100)
    desk.work()
    assert not len(desk.book), "all is settled in the end"
    (position,) = desk.book.positions()
    assert position.request_offset in (desk.offset, -1)
    said_sent = [command_id for command_id, state, _ in desk.said if state is CommandState.SENT]
    assert len(said_sent) == len(set(said_sent))
    assert set(said_sent) == set(published)
