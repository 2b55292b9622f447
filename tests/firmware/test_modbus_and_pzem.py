"""Frames of the PZEM-004T v3, from captures and from the maker's table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node.bodies import measured, pzem_values
from node.modbus import BadFrame, crc16, framed
from node.pzem004t import (
    Bus,
    measurement,
    read_request,
    refuse_not_done,
    reset_energy_request,
    set_address_request,
)

# 225.7 V, 0.108 A, 24.4 W, 38 Wh, 50.0 Hz, pf 1.00
REPLY = bytes.fromhex("01041408D1006C000000F400000026000001F4006400005134")


@pytest.mark.parametrize(
    ("made", "frame"),
    [
        (read_request(0x01), "01040000000A700D"),
        (read_request(0xF8), "F8040000000A6464"),
        (reset_energy_request(0x01), "01428011"),
        (reset_energy_request(0xF8), "F842C241"),
        (set_address_request(0x01, 5), "010600020005E809"),
    ],
)
def test_a_request_is_the_captured_frame(made: bytes, frame: str) -> None:
    assert made == bytes.fromhex(frame)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (REPLY.hex(), (2257, 108, 244, 38, 500, 100, False)),
        (
            "F8041408A600000000000000000002000001F300000000E387",
            (2214, 0, 0, 2, 499, 0, False),
        ),
        (
            "010414089803E80000089800000000000001F40064000063CE",
            (2200, 1000, 2200, 0, 500, 100, False),
        ),
    ],
)
def test_a_reply_is_decoded_in_the_meters_own_steps(frame: str, expected: tuple[int]) -> None:
    data = bytes.fromhex(frame)
    found = measurement(data, data[0])
    assert (
        found.voltage_dv,
        found.current_ma,
        found.power_dw,
        found.energy_wh,
        found.frequency_dhz,
        found.power_factor_c,
        found.alarm,
    ) == expected


def test_32_bit_values_come_low_word_first() -> None:
    words = [2300, 0x5678, 0x0001, 0x1111, 0x0002, 0x967F, 0x0098, 500, 100, 0xFFFF]
    data = framed(bytes([1, 4, 20]) + b"".join(word.to_bytes(2, "big") for word in words))
    found = measurement(data, 1)
    assert (found.current_ma, found.power_dw) == (0x15678, 0x21111)
    assert (found.energy_wh, found.alarm) == (9_999_999, True)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        # its checksum is sound, but it holds nine registers
        ("F8041208BD00000000000000000002000001F400003A8B", "no measurement"),
        ("F8041208BD00000000000000000002000001F400003A8A", "checksum"),
        ("01109429", "checksum"),
        ("01840182C0", "illegal function"),
        ("", "no frame"),
        ("01", "no frame"),
        (REPLY[:-1].hex(), "checksum"),
    ],
)
def test_what_is_no_measurement_is_refused_with_its_reason(frame: str, why: str) -> None:
    data = bytes.fromhex(frame)
    with pytest.raises(BadFrame, match=why):
        measurement(data, data[0] if data else 1)


def test_another_meters_answer_is_refused() -> None:
    with pytest.raises(BadFrame, match="0x01 answered for 0x02"):
        measurement(REPLY, 2)


@given(st.integers(0, len(REPLY) * 8 - 1))
def test_one_flipped_bit_is_always_seen(bit: int) -> None:
    damaged = bytearray(REPLY)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFrame):
        measurement(bytes(damaged), 1)


@given(st.binary(max_size=40))
def test_garbage_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(BadFrame):
        measurement(data, 1)


def test_the_checksum_of_the_standards_example() -> None:
    assert crc16(b"123456789") == 0x4B37


def test_a_confirmation_repeats_the_request() -> None:
    asked = reset_energy_request(1)
    refuse_not_done(asked, asked)
    with pytest.raises(BadFrame, match="not what was asked"):
        refuse_not_done(set_address_request(1, 6), set_address_request(1, 5))


@pytest.mark.parametrize("new", [0, 248, -1, 1000])
def test_an_address_that_no_meter_may_have_is_not_sent(new: int) -> None:
    with pytest.raises(ValueError, match="not 1 to 247"):
        set_address_request(1, new)


def test_values_are_shown_with_the_meters_digits() -> None:
    text = measured([("total", pzem_values(measurement(REPLY, 1)))])
    assert text == (
        b'"channels":{"total":{"power_w":24.4,"voltage_v":225.7,"current_a":0.108,'
        b'"frequency_hz":50.0,"power_factor":1.00,"import_total_wh":38}}'
    )


class Line:
    """A serial line on which bytes come in the pieces given."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def read(self, _most: int) -> bytes | None:
        return self.pieces.pop(0) if self.pieces else None


def asked_bus(*pieces: bytes) -> Bus:
    line = Line()
    bus = Bus(line)
    bus.ask(read_request(1), now_ms=0)
    line.pieces = list(pieces)
    return bus


def test_a_reply_may_come_in_pieces() -> None:
    bus = asked_bus(REPLY[:3], b"", REPLY[3:20], REPLY[20:])
    found = [bus.step(10) for _ in range(4)]
    assert found == [None, None, None, REPLY]
    assert not bus.busy


def test_an_exception_ends_the_wait_at_once() -> None:
    bus = asked_bus(bytes.fromhex("01840182C0"))
    assert bus.step(10) == bytes.fromhex("01840182C0")


@pytest.mark.parametrize("pieces", [[], [REPLY[:24]]])
def test_a_reply_that_does_not_come_has_a_deadline(pieces: list[bytes]) -> None:
    bus = asked_bus(*pieces)
    assert bus.step(399) is None
    with pytest.raises(BadFrame, match=f"{len(b''.join(pieces))} of 25 bytes"):
        bus.step(400)
    assert not bus.busy


def test_noise_before_the_reply_is_refused_not_searched() -> None:
    bus = asked_bus(b"\x00\xff" + REPLY)
    with pytest.raises(BadFrame, match="27 bytes came where 25 were due"):
        bus.step(10)


def test_what_was_on_the_line_before_the_request_is_thrown_away() -> None:
    line = Line(b"garbage", REPLY)
    bus = Bus(line)
    bus.ask(read_request(1), now_ms=0)
    assert bus.step(10) is None
