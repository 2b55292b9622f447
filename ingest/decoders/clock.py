"""Whether to believe a device's clock: decided once per message, against its `received_at`."""

import re
from datetime import UTC, datetime, timedelta

from schemas.decoded import Reason, Undecodable
from schemas.reading import Clock
from schemas.units import DAY_US, MINUTE_US, SECOND_US

SINCE_BOOT_BELOW_S = 31_536_000
"""A clock below one year counts from the device's start: no device runs in 1970."""
MILLISECONDS_ABOVE = 1e11
"""As seconds that is the year 5138, as milliseconds 1973."""
BELIEVED_AHEAD_US = 2 * MINUTE_US
CORRECTED_AHEAD_US = DAY_US

_DEVICE = Clock.DEVICE  # looking a member up costs as much as the whole comparison below
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,12}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)


def instant_of(
    clock: float | str | None, received_us: int, oldest_us_back: int
) -> tuple[int, Clock]:
    """`measured_us` of a message whose device says `clock`, and whose clock that is.

    A number is Unix seconds (milliseconds above 1e11) or seconds since boot; a text is RFC 3339.
    Raises Undecodable for a clock a day ahead, one too old, and a text that is no time.
    """
    if clock.__class__ is float and SINCE_BOOT_BELOW_S <= clock <= MILLISECONDS_ABOVE:
        told_us = int(clock * SECOND_US + 0.5)
        if -oldest_us_back <= told_us - received_us <= BELIEVED_AHEAD_US:
            return told_us, _DEVICE
    return _weigh(clock, received_us, oldest_us_back)


def _weigh(clock: float | str | None, received_us: int, oldest_us_back: int) -> tuple[int, Clock]:
    if clock is None:
        return received_us, Clock.RECEIVED_NO_CLOCK
    if isinstance(clock, str):
        told_us = parse_rfc3339(clock)
        if told_us is None:
            return received_us, Clock.RECEIVED_NO_CLOCK
    elif 0 <= clock < SINCE_BOOT_BELOW_S:
        return received_us, Clock.RECEIVED_SINCE_BOOT
    else:
        bounded = max(-MILLISECONDS_ABOVE, min(clock, 1e17))  # no product beyond a double
        told_us = int(bounded * (1_000 if clock > MILLISECONDS_ABOVE else SECOND_US) + 0.5)
    ahead_us = told_us - received_us
    if ahead_us > BELIEVED_AHEAD_US:
        if ahead_us <= CORRECTED_AHEAD_US:
            return received_us, Clock.RECEIVED_AHEAD
        raise Undecodable(
            Reason.CLOCK_AHEAD,
            f"the device's clock says {clock!r:.40}, more than a day after the message came; "
            "set the device's clock",
        )
    if -ahead_us > oldest_us_back:
        raise Undecodable(
            Reason.TOO_OLD,
            f"the device's clock says {clock!r:.40}, more than {oldest_us_back // DAY_US} days "
            "before the message came; set the device's clock, or replay with a wider bound",
        )
    return told_us, Clock.DEVICE


def parse_rfc3339(text: str) -> int | None:
    """Microseconds since the epoch; None where the text is a time without an offset."""
    match = _INSTANT.fullmatch(text)
    try:
        if match is None:
            raise ValueError("not RFC 3339")
        day, time, fraction, offset = match.groups()
        microseconds = (fraction or "").ljust(6, "0")[:6]
        told = datetime.fromisoformat(f"{day}T{time}.{microseconds}{(offset or 'Z').upper()}")
    except ValueError as error:
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"{text!r:.40} is not a time; send Unix seconds or RFC 3339 with an offset, "
            "2026-02-06T14:30:00Z",
        ) from error
    return (told - _EPOCH) // timedelta(microseconds=1) if offset else None
