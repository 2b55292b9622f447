"""What really ran, held against what was asked: the account of a trial of commands. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from infra.switches.device import TIMER, WALL, Ran
from infra.switches.journal import by_relay
from schemas.units import SECOND_US

RelayKey = tuple[str, int]
"""Address and number of a relay, from 0."""

KNOWN_BY_ID = frozenset({"homesync", "wattaway", "home"})
KNOWN_BY_SEQ = frozenset({"shelly"})
DEDUPLICATES = frozenset({"homesync"})
EXPLAINED_WITHIN_US = 120 * SECOND_US
"""So long after a hand's press its report may come: the device may have been cut off."""
_BY_NOBODY_HERE = frozenset({WALL, TIMER})


class Asked(NamedTuple):
    """One command as the database has it in the end."""

    command_id: str
    seq: int
    relay: RelayKey
    turns_on: bool
    issued_us: int
    expires_us: int
    state: str
    confirmed_by: str | None
    was_sent: bool


class Attributed(NamedTuple):
    """One row of `switch_event`; `was_on` None: it was the first that was heard of the relay."""

    relay: RelayKey
    at_us: int
    was_on: bool | None
    is_on: bool
    by_kind: str
    by_whom: str
    command_id: str | None


@dataclass(frozen=True)
class Account:
    """Everything but `ran` and `changed` should be empty. Each entry is a sentence."""

    ran: int
    changed: int
    twice: list[str]
    late: list[str]
    disordered: list[str]
    not_asked: list[str]
    should_not_have: list[str]
    did_not: list[str]
    other_state: list[str]
    unattributed: list[str]

    @property
    def faults(self) -> dict[str, list[str]]:
        lists = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        return {name: value for name, value in lists.items() if value}


def account(
    ran: Sequence[Ran],
    asked: Sequence[Asked],
    attributed: Sequence[Attributed],
    is_on: Mapping[RelayKey, bool],
    reported: Mapping[RelayKey, bool],
) -> Account:
    """`is_on`: the relays as they are; `reported`: as the database believes."""
    found = Account(
        len(ran), sum(one.was_on is not one.is_on for one in ran), *([] for _ in range(8))
    )
    of_relay: dict[RelayKey, list[Asked]] = {}
    for one in sorted(asked, key=lambda one: one.seq):
        of_relay.setdefault(one.relay, []).append(one)
    runs = by_relay(ran)
    for relay in sorted(is_on):
        commands, here = of_relay.get(relay, []), runs.get(relay, [])
        matched = _match(found, relay, commands, here)
        _check_outcomes(found, relay, commands, matched)
        _check_last(found, relay, commands, here, matched, is_on[relay])
        if reported.get(relay) is not is_on[relay]:
            found.other_state.append(f"{relay}: is {is_on[relay]}, told {reported.get(relay)}")
    _check_attribution(found, runs, attributed, is_on)
    return found


def _match(
    found: Account, relay: RelayKey, commands: Sequence[Asked], ran: Sequence[Ran]
) -> dict[str, int]:
    """By command id: the index of its run. Notes what ran twice, late, out of order or unasked."""
    family = relay[0].partition(":")[0]
    by_key = {(one.command_id if family in KNOWN_BY_ID else str(one.seq)): one for one in commands}
    matched: dict[str, int] = {}
    last_seq = 0
    for index, run in enumerate(ran):
        if run.by in _BY_NOBODY_HERE:
            continue
        changed = run.was_on is not run.is_on
        if family in KNOWN_BY_ID | KNOWN_BY_SEQ:
            command = by_key.get(run.command)
        else:
            command = _next(commands, run, last_seq if changed else 0)
            if command is not None and not changed:
                continue  # which one it was, nobody can tell
        if command is None:
            found.not_asked.append(f"{relay}: {run}")
            continue
        if command.command_id in matched:
            if changed or family in DEDUPLICATES:
                found.twice.append(f"{relay}: {command.seq} at {run.at_us}")
            continue
        matched[command.command_id] = index
        if run.at_us >= command.expires_us:
            found.late.append(f"{relay}: {command.seq}, {run.at_us - command.expires_us} µs")
        if command.turns_on is not run.is_on:
            found.not_asked.append(f"{relay}: {command.seq} made it {run.is_on}")
        if command.seq < last_seq:
            found.disordered.append(f"{relay}: {command.seq} after {last_seq}")
        last_seq = max(last_seq, command.seq)
    return matched


def _next(commands: Sequence[Asked], run: Ran, after_seq: int) -> Asked | None:
    """The first command after a number that a bare word can have been."""
    for one in commands:
        fits = one.turns_on is run.is_on and one.issued_us <= run.at_us < one.expires_us
        if one.seq > after_seq and fits:
            return one
    return None


def _check_outcomes(
    found: Account, relay: RelayKey, commands: Iterable[Asked], matched: Mapping[str, int]
) -> None:
    known = relay[0].partition(":")[0] in KNOWN_BY_ID | KNOWN_BY_SEQ
    for one in commands:
        has_run = one.command_id in matched
        may_not = one.state in ("failed", "cancelled") or (
            one.state == "expired" and not one.was_sent
        )
        if known and has_run and may_not:
            found.should_not_have.append(f"{relay}: {one.seq} is {one.state} and ran")
        if known and not has_run and one.state == "done" and one.confirmed_by == "answer":
            found.did_not.append(f"{relay}: {one.seq} was answered and did not run")


def _check_last(
    found: Account,
    relay: RelayKey,
    commands: Sequence[Asked],
    ran: Sequence[Ran],
    matched: Mapping[str, int],
    is_on: bool,
) -> None:
    """The newest acknowledged command holds, unless something ran after it."""
    done = [one for one in commands if one.state == "done" and one.command_id in matched]
    if not done:
        return
    last = done[-1]
    later = [one for one in ran[matched[last.command_id] + 1 :] if one.was_on is not one.is_on]
    if not later and last.turns_on is not is_on:
        found.other_state.append(f"{relay}: {last.seq} is done, and the relay is {is_on}")


def _check_attribution(
    found: Account,
    runs: Mapping[RelayKey, Sequence[Ran]],
    attributed: Sequence[Attributed],
    is_on: Mapping[RelayKey, bool],
) -> None:
    last: dict[RelayKey, bool] = {}
    for row in attributed:
        last[row.relay] = row.is_on
        if row.was_on is None or row.command_id is not None:
            continue
        pressed = any(
            run.by in _BY_NOBODY_HERE
            and run.is_on is row.is_on
            and row.at_us - EXPLAINED_WITHIN_US <= run.at_us <= row.at_us + SECOND_US
            for run in runs.get(row.relay, ())
        )
        if not pressed:
            found.unattributed.append(f"{row.relay}: {row.is_on} at {row.at_us} by {row.by_whom}")
    for relay, on in is_on.items():
        if relay in last and last[relay] is not on:
            found.unattributed.append(f"{relay}: is {on}, and nobody is said to have done it")
