"""The meter that would have seen a file: its register and power as minutes end. Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from infra.household.minutes import Minute
from infra.household.node import INTERVAL_US, wh_text
from schemas.units import SECOND_US

_MINUTES_PER_HOUR = 60


class MeterReading(NamedTuple):
    """`power_w` is None where the meter begins to run: at first, and after each gap."""

    at_us: int
    power_w: float | None
    import_total_uwh: int


def meter_readings(minutes: Iterable[Minute], register_uwh: int = 0) -> Iterator[MeterReading]:
    """Readings at the end of each minute, and one where the first minute of a run begins.

    The register grows by what flowed, to the whole µWh; over a gap it stands still and nothing is
    said, for nobody knows what flowed there.
    """
    flowed = 0  # µW·min
    ran_until = None
    for minute in minutes:
        if minute.power_w is None:
            continue
        if minute.start_us != ran_until:
            total = register_uwh + flowed // _MINUTES_PER_HOUR
            yield MeterReading(minute.start_us, None, total)
        flowed += round(minute.power_w * 1_000_000)
        ran_until = minute.start_us + INTERVAL_US
        total = register_uwh + flowed // _MINUTES_PER_HOUR
        yield MeterReading(ran_until, minute.power_w, total)


def meter_body(reading: MeterReading, shift_us: int) -> str:
    """A homesync payload from `"ts"` to its end, `shift_us` later than the file says."""
    seconds, micros = divmod(reading.at_us + shift_us, SECOND_US)
    power = "" if reading.power_w is None else f'"power_w":{reading.power_w!r},'
    total = wh_text(reading.import_total_uwh)
    return (
        f'"ts":{seconds}.{micros:06d},"channels":{{"total":{{{power}"import_total_wh":{total}}}}}}}'
    )
