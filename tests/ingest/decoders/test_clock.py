import pytest
from wire import RECEIVED_US, instant_us, refused

from ingest.decoders.clock import instant_of, parse_rfc3339
from ingest.decoders.message import OLDEST_US_BACK
from schemas.decoded import Reason, Undecodable
from schemas.reading import Clock
from schemas.units import DAY_US, MINUTE_US

RECEIVED_S = RECEIVED_US // 1_000_000


@pytest.mark.parametrize(
    ("told", "measured_us", "clock"),
    [
        (None, RECEIVED_US, Clock.RECEIVED_NO_CLOCK),
        (0, RECEIVED_US, Clock.RECEIVED_SINCE_BOOT),
        (1.61, RECEIVED_US, Clock.RECEIVED_SINCE_BOOT),
        (31_535_999, RECEIVED_US, Clock.RECEIVED_SINCE_BOOT),
        (RECEIVED_S, RECEIVED_US, Clock.DEVICE),
        (RECEIVED_S - 7_776_000, RECEIVED_US - 90 * DAY_US, Clock.DEVICE),
        (RECEIVED_S * 1000 + 250, RECEIVED_US + 250_000, Clock.DEVICE),
        (RECEIVED_S + 120, RECEIVED_US + 2 * MINUTE_US, Clock.DEVICE),
        (RECEIVED_S + 120.5, RECEIVED_US, Clock.RECEIVED_AHEAD),
        (RECEIVED_S + 86_400, RECEIVED_US, Clock.RECEIVED_AHEAD),
        ("2025-11-21T06:20:00Z", RECEIVED_US, Clock.DEVICE),
        ("2025-11-21T13:20:00+07:00", RECEIVED_US, Clock.DEVICE),
        ("2025-11-21 06:19:59.123456789z", RECEIVED_US - 876_544, Clock.DEVICE),
        ("2025-11-21 06:20:00", RECEIVED_US, Clock.RECEIVED_NO_CLOCK),
    ],
)
def test_a_clock_is_believed_within_its_bounds(told, measured_us, clock):
    assert instant_of(told, RECEIVED_US, OLDEST_US_BACK) == (measured_us, clock)


def test_hundredths_of_a_second_survive_floating_point():
    assert instant_of(1755016913.24, RECEIVED_US, 200 * DAY_US)[0] == 1_755_016_913_240_000


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (RECEIVED_S + 86_401, Reason.CLOCK_AHEAD),
        (4_294_967_295, Reason.CLOCK_AHEAD),  # 2106-02-07, an unsigned counter's end
        ("2106-02-07T06:28:15Z", Reason.CLOCK_AHEAD),
        (1e300, Reason.CLOCK_AHEAD),
        (1.7e308, Reason.CLOCK_AHEAD),
        (10**400, Reason.CLOCK_AHEAD),
        (-1.7e308, Reason.TOO_OLD),
        (31_536_000, Reason.TOO_OLD),
        (-5, Reason.TOO_OLD),
        ("1970-01-01T00:00:05Z", Reason.TOO_OLD),
        ("0001-01-01T00:00:00+14:00", Reason.TOO_OLD),
        (RECEIVED_S - 7_776_001, Reason.TOO_OLD),
        (RECEIVED_S - 200 * 86_400, Reason.TOO_OLD),
        ("yesterday", Reason.WRONG_TYPE),
        ("2025-13-41T06:20:00Z", Reason.WRONG_TYPE),
        ("20251121T062000Z", Reason.WRONG_TYPE),
        ("٢٠٢٥-11-21T06:20:00Z", Reason.WRONG_TYPE),
        ("", Reason.WRONG_TYPE),
    ],
)
def test_a_clock_beyond_its_bounds_refuses_the_message(told, reason):
    with pytest.raises(Undecodable) as caught:
        instant_of(told, RECEIVED_US, OLDEST_US_BACK)
    assert caught.value.reason is reason


def test_a_wider_bound_takes_an_older_reading():
    old_s = RECEIVED_S - 200 * 86_400
    assert instant_of(old_s, RECEIVED_US, 365 * DAY_US) == (old_s * 1_000_000, Clock.DEVICE)


def test_a_time_without_an_offset_is_no_instant():
    assert parse_rfc3339("2026-02-06T14:30:00") is None
    assert parse_rfc3339("2026-02-06T14:30:00Z") == instant_us("2026-02-06T14:30:00+00:00")


def test_an_old_clock_is_never_stamped_anew():
    short = {"w": 1.0, "ts": RECEIVED_S - 200 * 86_400}
    text = refused("home/h1/sensor/power/total", short, Reason.TOO_OLD)
    assert "replay with a wider bound" in text
