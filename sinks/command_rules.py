"""What holds for each kind of command: how long it lives, how often it may come, who says yes."""

from dataclasses import dataclass
from typing import NamedTuple

from schemas.command import SWITCHING, Kind

DAY_S = 86_400
WEEK_S = 7 * DAY_S


class Rate(NamedTuple):
    """At most `most` commands of a kind for one device in any `seconds`."""

    most: int
    seconds: int


@dataclass(frozen=True)
class KindRule:
    """`expires_in_s` where the asker does not say; `longest_s` is the most that he may.

    `dangerous` ones need a `confirm`.
    """

    expires_in_s: int
    longest_s: int
    rate: Rate
    dangerous: bool = False


SHORTEST_S = 1
LONGEST_REVERT_S = DAY_S
REVERT_EXPIRES_IN_S = DAY_S

_SWITCHING = KindRule(30, DAY_S, Rate(60, 60))
RULES = {
    **dict.fromkeys(SWITCHING, _SWITCHING),
    Kind.REBOOT: KindRule(60, DAY_S, Rate(6, 3600), dangerous=True),
    Kind.CONFIG: KindRule(600, WEEK_S, Rate(60, 3600)),
    Kind.CALIBRATE: KindRule(60, DAY_S, Rate(60, 3600), dangerous=True),
    Kind.RESET_ENERGY: KindRule(60, DAY_S, Rate(6, 3600), dangerous=True),
    Kind.OTA: KindRule(DAY_S, WEEK_S, Rate(6, 3600), dangerous=True),
}
OPPOSITE = {Kind.ON: Kind.OFF, Kind.OFF: Kind.ON}
