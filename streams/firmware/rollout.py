"""When a roll-out goes on and when it halts. Pure."""

from dataclasses import dataclass
from decimal import Decimal

from schemas.command import CommandState


@dataclass(frozen=True)
class Limits:
    """A roll-out halts when more than `max_failed_percent` of its results are failures.

    Fewer than `least_results` are judged as if that many had come and the others were good: one
    failure of the first two is not half of all.
    """

    max_failed_percent: Decimal
    least_results: int


def why_halted(done: int, failed: int, limits: Limits) -> str | None:
    """Why the roll-out halts now, None if it goes on."""
    results = max(done + failed, limits.least_results)
    if failed * 100 <= limits.max_failed_percent * results:
        return None
    return f"{failed} of {done + failed} failed; {limits.max_failed_percent} % are allowed"


def status_after(state: CommandState, received: bool, late_answer: str | None) -> tuple[str, bool]:
    """What a device's command says of its update: the status, and whether it failed by silence.

    A device that began (`received`) and was not heard of again has failed: it may be what the
    update broke. One that never began was away and is asked again.
    """
    said = late_answer or state
    if said == CommandState.DONE:
        return "done", False
    if said == CommandState.FAILED:
        return "failed", False
    if state == CommandState.EXPIRED:
        return ("failed", True) if received else ("waiting", False)
    return "failed", False
