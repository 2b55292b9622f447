"""Which day of the week a civil day is billed as."""

from datetime import date

from streams.tariffs.errors import NotKnown
from streams.tariffs.model import HolidaySet, Schedule
from streams.tariffs.week import WEEK, DayName


def billed_as(day: date, schedule: Schedule, holidays: HolidaySet | None) -> DayName:
    """The row of the schedule that holds for `day`.

    A holiday counts as the schedule says for its kind: as another day, or as its own weekday (the
    Royal Ploughing Day, substitution days and extra days of the cabinet in Thailand).
    Raises NotKnown for a year whose holidays nobody has entered.
    """
    own = WEEK[day.weekday()]
    if holidays is None:
        return own
    first, last = holidays.years
    if not first <= day.year <= last:
        raise NotKnown(
            f'calendar "{schedule.calendar}": the holidays of {day.year} are not known, only '
            f"{first} to {last}; add them to the calendar"
        )
    kind = holidays.days.get(day)
    if kind is None:
        return own
    rule = schedule.holidays[kind]
    return own if rule == "weekday" else rule
