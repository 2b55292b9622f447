"""Windows of the week: that each quarter hour of each month lies in exactly one period."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DayName = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEK: tuple[DayName, ...] = get_args(DayName)
MONTHS = tuple(range(1, 13))
QUARTERS_A_DAY = 96


def _quarter(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d\d):(\d\d)", value)
    if not match or int(match[2]) > 59 or 60 * int(match[1]) + int(match[2]) > 1440:
        raise ValueError(f"{value!r:.20} is no time of day; write 09:00, or 24:00 for the end")
    if int(match[2]) % 15:
        raise ValueError(f"{value} lies within a quarter hour of the ledger; use :00 :15 :30 :45")
    return 4 * int(match[1]) + int(match[2]) // 15


QuarterOfDay = Annotated[int, BeforeValidator(_quarter), Field(ge=0, le=QUARTERS_A_DAY)]
"""Quarter hours since local midnight, written `09:00` (36); `24:00` is 96."""


class Window(BaseModel):
    """`[from, to)` on these days of these months belongs to `period`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period: str
    from_: QuarterOfDay = Field(default=0, alias="from")
    to: QuarterOfDay = QUARTERS_A_DAY
    days: tuple[DayName, ...] = WEEK
    months: tuple[Annotated[int, Field(ge=1, le=12)], ...] = MONTHS

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.to <= self.from_:
            raise ValueError(
                f"{time_of_day(self.from_)}-{time_of_day(self.to)} is empty; "
                "split a window that crosses midnight in two"
            )
        return self


def check_week(windows: Sequence[Window]) -> None:
    """Raises ValueError at the first quarter hour that lies in no window, or in two."""
    for month in MONTHS:
        for day in WEEK:
            _check_day(month, day, [w for w in windows if month in w.months and day in w.days])


def period_of_quarters(windows: Sequence[Window], month: int, day: DayName) -> list[str]:
    """The period of each of the 96 quarter hours of such a day."""
    periods = [""] * QUARTERS_A_DAY
    for window in windows:
        if month in window.months and day in window.days:
            periods[window.from_ : window.to] = [window.period] * (window.to - window.from_)
    return periods


def _check_day(month: int, day: DayName, windows: Sequence[Window]) -> None:
    reached = 0
    for window in sorted(windows, key=lambda one: one.from_):
        if window.from_ > reached:
            break
        if window.from_ < reached:
            raise ValueError(
                f"month {month}, {day} {time_of_day(window.from_)} lies in two windows; "
                f"begin {window.period!r} at {time_of_day(reached)} or end the one before sooner"
            )
        reached = window.to
    else:
        if reached == QUARTERS_A_DAY:
            return
    until = min((w.from_ for w in windows if w.from_ > reached), default=QUARTERS_A_DAY)
    raise ValueError(
        f"a hole in the week: month {month}, {day} {time_of_day(reached)}-{time_of_day(until)} "
        "belongs to no period; add a window for it"
    )


def time_of_day(quarter: int) -> str:
    """As it is written: quarter hour 36 is `09:00`."""
    return f"{quarter // 4:02d}:{quarter % 4 * 15:02d}"
