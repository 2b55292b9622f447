"""A PZEM that is given another address, over a wire that carries the real frames."""

from collections.abc import Iterator
from typing import Any

import pytest
from node import moving
from node.command import Refused
from node.meters import Meters
from simulated_pzem import SimulatedPzem


class Wire:
    """To one meter; with `dead` nobody answers."""

    def __init__(self, meter: SimulatedPzem) -> None:
        self.meter = meter
        self.dead = False
        self.sent: list[bytes] = []
        self._coming = b""

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        self._coming = b"" if self.dead else self.meter.reply(data)

    def read(self, most: int) -> bytes | None:
        part, self._coming = self._coming[:most], self._coming[most:]
        return part or None


@pytest.fixture
def wire() -> Iterator[Wire]:
    meter = SimulatedPzem()
    yield Wire(meter)
    meter.close()


def result_of(meters: Meters) -> tuple[bool, str | None]:
    for now_ms in range(0, 2_000, 10):
        meters.step(now_ms)
        if (result := meters.result()) is not None:
            return result
    raise AssertionError("no result")


def read_once(meters: Meters) -> list[tuple[str, Any]]:
    assert meters.begin_round()
    for now_ms in range(10_000, 12_000, 10):
        if (found := meters.step(now_ms)) is not None:
            return found
    raise AssertionError("the round does not end")


def test_a_meter_answers_to_its_new_address_and_keeps_its_channel(wire: Wire):
    meters = Meters(wire, {"248": "total"}, lambda address, why: None)
    said = {"from_address": 248, "to_address": 5}
    named = moving.begin(meters, {"248": "total"}, said)
    assert named == {"5": "total"}
    assert result_of(meters) == (True, None)
    assert (wire.meter.address, len(wire.sent)) == (5, 1)
    assert wire.sent[0][:6] == bytes.fromhex("f80600020005")
    meters.set_named(named)
    assert [channel for channel, _ in read_once(meters)] == ["total"]


def test_a_meter_that_does_not_confirm_is_told(wire: Wire):
    meters = Meters(wire, {"1": "l1"}, lambda address, why: None)
    wire.dead = True
    moving.begin(meters, {"1": "l1"}, {"from_address": 1, "to_address": 2})
    done, why = result_of(meters)
    assert not done
    assert "0 of 8 bytes" in str(why)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"from_address": 3, "to_address": 5}, "no meter has the address 3"),
        ({"from_address": 1, "to_address": 2}, "another meter's"),
        ({"from_address": 1, "to_address": 0}, "is not 1 to 248"),
        ({"from_address": 1, "to_address": 248}, "248 is for one meter alone"),
        ({"from_address": 1, "to_address": True}, "True is no whole number"),
        ({"from_address": "1", "to_address": 5}, "'1' is no whole number"),
        ({"to_address": 5}, "from_address and to_address"),
        ({"from_address": 1, "to_address": 5, "force": True}, "nothing else"),
    ],
)
def test_what_cannot_be_is_refused_and_no_meter_is_asked(wire: Wire, said: Any, why: str):
    named = {"1": "l1", "2": "l2"}
    meters = Meters(wire, named, lambda address, why: None)
    with pytest.raises(Refused, match=why):
        moving.begin(meters, named, said)
    meters.step(0)
    assert wire.sent == []
    assert meters.result() is None
