"""Which time it is, and how it is asked."""

import struct

import pytest
from node.sntp import BadTime, question, unix_ms
from node.uptime import Uptime
from node.wall_clock import NTP_HOLDS_MS, WallClock

NOW_MS = 1_763_700_000_250
NONCE = b"12345678"


def answer(ms: int = NOW_MS, *, first: int = 0x24, stratum: int = 2, nonce: bytes = NONCE) -> bytes:
    seconds = ms // 1000 + 2_208_988_800
    fraction = (ms % 1000) * 2**32 // 1000 + 1
    head = bytes([first, stratum]) + bytes(22) + nonce
    return head + bytes(8) + struct.pack(">II", seconds % 2**32, fraction)


def test_the_time_is_the_servers_and_half_of_the_way():
    assert len(question(NONCE)) == 48
    assert question(NONCE)[40:] == NONCE
    assert unix_ms(answer(), NONCE, waited_ms=80) == NOW_MS + 40


def test_after_2036_the_counter_begins_anew():
    assert unix_ms(answer(2_200_000_000_000), NONCE, 0) == 2_200_000_000_000


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (answer(nonce=b"87654321"), "another question"),
        (answer(first=0x23), "mode 3"),
        (answer(first=0xE4), "not set"),
        (answer(stratum=0), "not set"),
        (answer(stratum=16), "not set"),
        (answer()[:47], "47 bytes"),
        (answer()[:40] + bytes(8), "no time"),
    ],
)
def test_an_answer_that_is_not_to_be_believed(wrong: bytes, why: str):
    with pytest.raises(BadTime, match=why):
        unix_ms(wrong, NONCE, 0)


def test_the_servers_word_counts_until_ntp_has_spoken():
    clock = WallClock()
    assert clock.unix_ms(5_000) is None
    assert clock.stamp(5_000) is None
    assert clock.set_by_server(NOW_MS, 5_000)
    assert clock.unix_ms(6_000) == NOW_MS + 1_000
    assert clock.set_by_ntp(NOW_MS + 7_500, 6_000)
    assert not clock.set_by_server(NOW_MS + 90_000, 7_000)
    assert clock.unix_ms(6_000) == NOW_MS + 7_500
    assert clock.set_by_server(NOW_MS + 90_000, 6_000 + NTP_HOLDS_MS)


@pytest.mark.parametrize("wrong", [0, -1, 1_600_000_000_000, 2**60])
def test_a_time_that_cannot_be_is_not_taken(wrong: int):
    clock = WallClock()
    assert not clock.set_by_ntp(wrong, 0)
    assert not clock.set_by_server(wrong, 0)
    assert not clock.known


def test_no_instant_comes_twice_when_the_clock_steps_back_a_little():
    clock = WallClock()
    clock.set_by_ntp(NOW_MS, 0)
    stamps = [clock.stamp(up) for up in (0, 1_000)]
    clock.set_by_ntp(NOW_MS - 500, 1_000)
    stamps += [clock.stamp(up) for up in (1_000, 1_200, 3_000)]
    assert stamps == sorted(set(stamps))
    clock.set_by_ntp(NOW_MS - 3_600_000, 4_000)
    assert clock.stamp(4_000) == NOW_MS - 3_600_000, "a great step is a wrong time before it"


def test_uptime_goes_on_where_the_counter_wraps():
    ticks = [100]
    uptime = Uptime(lambda: ticks[0] & 0x3FFF, lambda new, old: (new - old) & 0x3FFF)
    for _ in range(50):
        ticks[0] += 5_000
        last = uptime.ms()
    assert last == 250_000
