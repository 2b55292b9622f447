"""Commands on the node: once or not at all, whatever comes, and whenever the power goes."""

import builtins
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node import store as store_module
from node.command import Command, Refused
from node.commands import CLOCK_WITHIN_MS, Commands
from node.configuration import Configuration
from node.ledger import Ledger
from node.relays import DEBOUNCE_MS, Relays, WallSwitch, relay_index
from node.settings import checked, defaults
from node.store import Store
from node.wall_clock import WallClock

NOW_S = 1_763_700_000


class Pin:
    def __init__(self) -> None:
        self.moves: list[bool] = []

    def set(self, closed: bool) -> None:
        self.moves.append(closed)


class Bench:
    """A node's commands without its network. `restart` is a power cycle."""

    def __init__(self, folder: Path, rule: str = "last", clock: bool = True) -> None:
        self.folder = folder
        self.rule = rule
        self.answers: list[dict[str, Any]] = []
        self.switched: list[tuple[str, str]] = []
        self.ran: list[Command] = []
        self.clock_known = clock
        self.restart()

    def restart(self) -> None:
        self.pins = [Pin(), Pin()]
        self.ledger = Ledger(Store(str(self.folder / "ledger")), len(self.pins))
        self.relays = Relays(self.pins, self.ledger)
        self.relays.power_on(self.rule)
        self.clock = WallClock()
        if self.clock_known:
            self.clock.set_by_ntp(NOW_S * 1000, 0)
        self.commands = Commands(
            self.relays,
            self.ledger,
            self.clock,
            {"reboot": self._run, "calibrate": self._refuse, "reset_energy": self._later},
            lambda tail, payload: self.answers.append(json.loads(payload)),
            lambda name, by, now_ms: self.switched.append((name, by)),
        )
        self.commands.interrupted(0)

    def _run(self, command: Command) -> bool:
        self.ran.append(command)
        return True

    def _later(self, command: Command) -> bool:
        self.ran.append(command)
        return False

    def _refuse(self, command: Command) -> bool:
        raise Refused("not so")

    def send(self, kind: str = "relay", now_ms: int = 0, **said: object) -> dict[str, Any] | None:
        """The answer to a command, if there is one at once."""
        document = {"command_id": "c1", "command_seq": 1, "expires_at": NOW_S + 30}
        payload = json.dumps(document | said).encode()
        before = len(self.answers)
        self.commands.heard(kind, payload, len(payload), now_ms)
        return self.answers[-1] if len(self.answers) > before else None

    @property
    def moves(self) -> list[list[bool]]:
        return [pin.moves for pin in self.pins]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_command_runs_and_is_answered_with_its_id(bench: Bench):
    answer = bench.send(action="on", relay="relay:1")
    assert answer == {
        "outcome": "done", "command_id": "c1", "command_seq": 1, "relay": "relay:1", "state": "on",
        "ts": NOW_S * 1000,
    }  # fmt: skip
    assert bench.moves == [[False, False], [False, True]]
    assert bench.switched == [("relay:1", "command")]


def test_the_same_command_again_is_answered_and_not_run(bench: Bench):
    bench.send(action="toggle", relay="relay:0")
    moves = [list(pin) for pin in bench.moves]
    assert bench.send(action="toggle", relay="relay:0")["outcome"] == "done"
    assert bench.moves == moves
    bench.restart()
    assert bench.send(action="toggle", relay="relay:0")["outcome"] == "done"
    assert bench.moves == [[True], [False]], "only what the start itself does"


def test_an_older_command_that_comes_later_does_not_run(bench: Bench):
    bench.send(command_id="new", command_seq=9, action="on", relay=0)
    answer = bench.send(command_id="old", command_seq=8, action="off", relay=0)
    assert (answer["outcome"], answer["reason"]) == ("failed", "command 8 came after 9")
    assert bench.relays.states["relay:0"] is True


@pytest.mark.parametrize(("expires_s", "outcome"), [(NOW_S, "failed"), (NOW_S + 1, "done")])
def test_a_command_does_not_run_at_its_expiry(bench: Bench, expires_s: int, outcome: str):
    answer = bench.send(action="on", relay=None, expires_at=expires_s)
    assert answer["outcome"] == outcome
    assert bench.relays.states["relay:0"] == (outcome == "done")


def test_what_was_refused_once_stays_refused(bench: Bench):
    bench.send(action="on", expires_at=NOW_S - 1)
    answer = bench.send(action="on", expires_at=NOW_S + 99)
    assert (answer["outcome"], answer["reason"]) == ("failed", "expired")
    assert bench.send("calibrate", command_id="c2", command_seq=2)["reason"] == "not so"


def test_without_a_clock_a_command_waits_for_it(tmp_path: Path):
    bench = Bench(tmp_path, clock=False)
    assert bench.send(action="on") is None
    bench.commands.step(CLOCK_WITHIN_MS - 1)
    assert bench.answers == []
    bench.clock.set_by_server(NOW_S * 1000, CLOCK_WITHIN_MS - 1)
    bench.commands.step(CLOCK_WITHIN_MS - 1)
    assert bench.answers[-1]["outcome"] == "done"


def test_without_a_clock_for_long_a_command_is_refused_and_nothing_moves(tmp_path: Path):
    bench = Bench(tmp_path, clock=False)
    for number in range(1, 7):
        bench.send(command_id=f"c{number}", command_seq=number, action="on")
    assert [one["command_id"] for one in bench.answers] == ["c5", "c6"], "four may wait"
    bench.commands.step(CLOCK_WITHIN_MS)
    assert len(bench.answers) == 6
    assert {one["reason"] for one in bench.answers} >= {"the node does not know the time"}
    assert bench.moves == [[False], [False]]
    bench.clock_known = True
    bench.restart()
    assert bench.send(command_id="c5", command_seq=5, action="on")["outcome"] == "failed"


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"on", "no JSON"),
        (b"[]", "no JSON object"),
        (b"\xff", "no JSON"),
        (b"[[[[[[[[[1]]]]]]]]]", "deeper"),
        (b"{}", "command_id"),
        (b'{"command_id": ""}', "command_id"),
        (b'{"command_id": 5}', "command_id"),
        (b'{"command_id": "x"}', "command_seq"),
        (b'{"command_id": "x", "command_seq": true}', "command_seq"),
        (b'{"command_id": "x", "command_seq": 2147483648}', "command_seq"),
        (b'{"command_id": "x", "command_seq": 1}', "expires_at"),
        (b'{"command_id": "x", "command_seq": 1, "expires_at": 1e9}', "expires_at"),
        (b'{"command_id": "x", "command_seq": 1, "expires_at": 1}', "action"),
    ],
)
def test_what_is_no_command_is_refused_with_its_reason(bench: Bench, payload: bytes, why: str):
    bench.commands.heard("relay", payload, len(payload), 0)
    assert bench.answers[-1]["outcome"] == "failed"
    assert why in bench.answers[-1]["reason"]
    assert bench.moves == [[False], [False]]
    assert bench.ledger.last_seq == 0


@given(st.binary(max_size=60))
def test_any_payload_is_answered(tmp_path_factory: pytest.TempPathFactory, payload: bytes):
    bench = Bench(tmp_path_factory.mktemp("any"))
    bench.commands.heard("relay", payload, len(payload), 0)
    assert bench.answers[-1]["outcome"] == "failed"


def test_an_oversized_or_unknown_command_is_refused(bench: Bench):
    bench.commands.heard("relay", None, 70_000, 0)
    assert "70000 bytes" in bench.answers[-1]["reason"]
    assert "no command is named explode" in bench.send("explode")["reason"]
    assert "has no config" in bench.send("config")["reason"]


def test_a_long_command_is_received_and_then_done(bench: Bench):
    assert bench.send("reset_energy")["outcome"] == "received"
    assert bench.send("reset_energy")["outcome"] == "received", "again: still under way"
    bench.commands.finish("c1", "done", None, 0)
    assert bench.answers[-1]["outcome"] == "done"
    assert len(bench.ran) == 1


def test_a_command_that_the_power_cut_short_failed_and_does_not_run_again(bench: Bench):
    bench.send("reset_energy")
    bench.restart()
    assert bench.answers[-1]["reason"] == "the power went while it ran"
    assert bench.send("reset_energy")["outcome"] == "failed"
    assert len(bench.ran) == 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("last", [True, False]), ("on", [True, True]), ("off", [False, False])],
)
def test_relays_at_power_on_follow_the_rule(tmp_path: Path, rule: str, expected: list[bool]):
    bench = Bench(tmp_path, rule)
    bench.send(command_seq=1, action="on", relay="relay:0")
    bench.send(command_id="c2", command_seq=2, action="off", relay="relay:1")
    bench.restart()
    assert [pin.moves[-1] for pin in bench.pins] == expected


@pytest.mark.parametrize(
    ("name", "index"),
    [
        (None, 0), ("relay:1", 1), ("switch:0", 0), (1, 1), ("1", 1), ("relay:2", None),
        ("relay:", None), ("total", None), (-1, None), (True, None), ("relay:-1", None), ([], None),
    ],
)  # fmt: skip
def test_a_relay_is_known_by_its_name_or_number(name: object, index: int | None):
    assert relay_index(name, 2) == index
    assert relay_index(name, 0) is None


def test_the_wall_switch_counts_when_it_stays_where_it_was_put():
    position = [False]
    switch = WallSwitch(lambda: position[0])
    assert not switch.step(0)
    position[0] = True
    assert not switch.step(100)
    position[0] = False
    assert not switch.step(110), "it bounced back"
    position[0] = True
    assert not switch.step(120)
    assert not switch.step(120 + DEBOUNCE_MS - 1)
    assert switch.step(120 + DEBOUNCE_MS)
    assert not switch.step(500)


# ---- power cuts while the ledger is written ----


class PowerCut(BaseException):
    pass


def cut_after(patch: pytest.MonkeyPatch, budget: int) -> list[int]:
    """Let the flash take so many bytes and then fail. Returns a list with what is left."""
    left = [budget]

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            taken = min(len(data), left[0])
            left[0] -= taken
            self.file.write(data[:taken])
            if taken < len(data):
                raise PowerCut
            return taken

        def flush(self) -> None:
            pass

    def opened(path: str, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        return file if mode == "rb" else File(file)

    patch.setattr(store_module, "open", opened, raising=False)
    return left


def test_power_cut_at_every_byte_of_a_switching_runs_it_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran = set()
    for cut in range(400):
        (folder := tmp_path / str(cut)).mkdir()
        bench = Bench(folder)
        bench.send(command_id="before", command_seq=1, action="on", relay="relay:1")
        with monkeypatch.context() as patch:
            left = cut_after(patch, cut)
            try:
                bench.send(command_id="cut", command_seq=2, action="toggle", relay="relay:0")
            except PowerCut:
                assert bench.pins[0].moves[-1] is False, "no pin moves before it is written"
        bench.restart()
        assert bench.pins[1].moves == [True], "what was before is kept"
        moved = bench.pins[0].moves == [True]
        ran.add(moved)
        answer = bench.send(command_id="cut", command_seq=2, action="toggle", relay="relay:0")
        assert answer["outcome"] == "done"
        assert bench.relays.states["relay:0"] is True, "run exactly once, before or after the cut"
        if left[0]:
            break
    assert ran == {False, True}
    assert cut > 100


# ---- configuration ----


def test_a_configuration_is_taken_as_a_whole_or_not(tmp_path: Path):
    config = Configuration(Store(str(tmp_path / "config")))
    config.apply({"version": 3, "settings": {"interval_s": 5, "power_on": "off"}})
    for bad in (
        {"interval_s": 6, "batch": 0}, {"interval_s": True}, {"interval_s": 1.5},
        {"interval_s": 3601}, {"nonsense": 1}, {"power_on": "maybe"}, {"meters": []},
        {"meters": {"0": "a"}}, {"meters": {"249": "a"}}, {"meters": {"x": "a"}},
        {"meters": {"248": "a", "1": "b"}}, {"meters": {"1": "a", "2": "a"}}, {"meters": {"1": ""}},
        {"ntp_host": 5},
    ):  # fmt: skip
        with pytest.raises(Refused):
            config.apply({"version": 4, "settings": bad})
    again = Configuration(Store(str(tmp_path / "config")))
    assert (again.version, again["interval_s"], again["power_on"]) == (3, 5, "off")
    assert again.settings == config.settings


def test_versions_of_a_configuration_only_rise(tmp_path: Path):
    config = Configuration(Store(str(tmp_path / "config")))
    config.apply({"version": 3, "settings": {"interval_s": 5}})
    config.apply({"version": 3, "settings": {"interval_s": 5}})
    for version in (2, 3, 2**31, "4", True):
        with pytest.raises(Refused, match="version"):
            config.apply({"version": version, "settings": {"interval_s": 6}})
    config.apply({"interval_s": 7})
    assert (config.version, config["interval_s"]) == (4, 7)


def test_the_defaults_are_settings_that_can_be_set():
    assert checked(defaults()) == defaults()


def test_two_copies_survive_junk_in_either(tmp_path: Path):
    chance = random.Random(5)
    for name in ("doc.a", "doc.b"):
        for size in (0, 3, 8, 50):
            store = Store(str(tmp_path / "doc"))
            store.read()
            store.write({"n": 1})
            store.write({"n": 2})
            (tmp_path / name).write_bytes(chance.randbytes(size))
            assert Store(str(tmp_path / "doc")).read() in ({"n": 1}, {"n": 2})
