"""The simulated devices: the same seed and start, the same bytes; and our decoders know them."""

from collections import Counter, defaultdict
from itertools import islice, takewhile
from pathlib import Path

import pytest

from infra.simulator.families import FAMILIES, Message
from infra.simulator.fleet import fleet, messages
from infra.simulator.load import ORIGIN_US, Load
from infra.simulator.shapes import HOUSEHOLD_DIR, MINUTES, Shapes, find_shapes, own_shapes
from ingest.decoders.topic_table import address_of, decode
from schemas.reading import Reading
from schemas.units import MINUTE_US, SECOND_US

START_US = 1_763_700_000 * SECOND_US


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return own_shapes()


def said(shapes: Shapes, seed: int, devices: int, minutes: int, start_us: int = START_US):
    every = messages(fleet(seed, devices, shapes), start_us)
    return list(takewhile(lambda one: one.due_us < start_us + minutes * MINUTE_US, every))


def test_the_same_seed_and_start_give_the_same_bytes(shapes: Shapes):
    assert said(shapes, 1, 20, 3) == said(own_shapes(), 1, 20, 3)


def test_another_seed_or_start_gives_others(shapes: Shapes):
    first = said(shapes, 1, 9, 1)
    assert first != said(shapes, 2, 9, 1)
    assert first != said(shapes, 1, 9, 1, START_US + SECOND_US)


def test_more_devices_change_nothing_of_those_before_them(shapes: Shapes):
    few = said(shapes, 5, 9, 2)
    assert few == [one for one in said(shapes, 5, 30, 2) if one.device < 9]


def test_messages_come_in_order_of_time(shapes: Shapes):
    dues = [one.due_us for one in islice(messages(fleet(1, 50, shapes), START_US), 5000)]
    assert dues == sorted(dues)


def test_every_family_is_there_and_every_message_decodes(shapes: Shapes):
    devices = fleet(3, 9, shapes)
    kinds: Counter[str] = Counter()
    for message in said(shapes, 3, 9, 5):
        device = devices[message.device]
        decoded = decode(message.topic, message.payload, message.due_us + 50_000)
        assert decoded.address == device.address == address_of(message.topic, message.payload)
        assert decoded.readings or decoded.states
        kinds[device.kind] += 1
    assert kinds.keys() == FAMILIES.keys()


def registers(every: list[Message]) -> dict[tuple[str, str], list[Reading]]:
    found: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    for message in every:
        decoded = decode(message.topic, message.payload, message.due_us)
        for reading in decoded.readings:
            if reading.values.import_total_wh is not None:
                found[decoded.address, reading.channel].append(reading)
    return found


def test_every_device_has_a_register_that_only_grows(shapes: Shapes):
    found = registers(said(shapes, 1, 9, 30))
    assert {address for address, _ in found} == {one.address for one in fleet(1, 9, shapes)}
    for readings in found.values():
        totals = [one.values.import_total_wh for one in readings]
        assert totals == sorted(totals)


def test_a_simulator_started_again_goes_on_where_its_meters_are(shapes: Shapes):
    before = registers(said(shapes, 1, 9, 5))
    after = registers(said(shapes, 1, 9, 5, START_US + 10 * MINUTE_US))
    for channel, readings in after.items():
        assert readings[0].values.import_total_wh >= before[channel][-1].values.import_total_wh


def test_phases_add_up_to_the_total(shapes: Shapes):
    device = next(one for one in fleet(1, 9, shapes) if one.kind == "meter")
    message = next(one for one in device.says(START_US) if b'"total"' in one.payload)
    values = {one.channel: one.values for one in decode(*message[2:4], message.due_us).readings}
    phases = [values[name].power_w for name in ("l1", "l2", "l3")]
    assert sum(phases) == pytest.approx(values["total"].power_w, abs=0.01)


def test_the_register_is_the_integral_of_the_power(shapes: Shapes):
    load = Load(shapes.homes[0], scale=1000, shift=0, wave=0.0)
    at_us = ORIGIN_US + (3 * MINUTES + 500) * MINUTE_US
    by_power = sum(load.power_mw(at_us + i * SECOND_US) for i in range(7200)) * SECOND_US
    rise = load.register_uwh(at_us + 7200 * SECOND_US) - load.register_uwh(at_us)
    assert rise == pytest.approx(by_power / 3_600_000, abs=2)


def test_devices_say_they_are_there_and_the_broker_keeps_it(shapes: Shapes):
    first = said(shapes, 1, 9, 1)[:9]
    assert all(one.retain for one in first)
    for message, device in zip(first, fleet(1, 9, shapes), strict=True):
        states = decode(message.topic, message.payload, START_US, retained=True).states
        assert states[0].fields == {"online": True}
        gone = device.state(START_US, False)
        assert decode(gone.topic, gone.payload, START_US).states[0].fields == {"online": False}


def test_loads_are_made_from_real_households():
    if not HOUSEHOLD_DIR.exists():
        pytest.skip(f"{HOUSEHOLD_DIR} is missing")
    real, text = find_shapes()
    assert len(real.homes) == 3
    assert all(len(one.powers_mw) == MINUTES for one in [*real.homes, *real.appliances])
    assert "REFIT" in text


def test_a_missing_folder_is_said_and_replaced(tmp_path: Path):
    made_up, text = find_shapes(tmp_path / "none")
    assert len(made_up.homes) == 3
    assert "is not there" in text
    daily = [one.sums[-1] / 60 / 21 / 1e6 for one in made_up.homes]  # kWh
    assert all(4 < kwh < 30 for kwh in daily)
