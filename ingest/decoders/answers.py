"""What devices say of commands in many words, turned into the event `schemas.command.ANSWER`."""

from collections.abc import Mapping

from ingest.decoders.device_state import attributes_of
from schemas.command import ANSWER, Outcome
from schemas.device import Event, StateValue

MAX_SEQ = 2**31 - 1
MAX_ID_TEXT = 64
MAX_REASON_TEXT = 500

_WORDS = {
    "received": Outcome.RECEIVED, "accepted": Outcome.RECEIVED, "pending": Outcome.RECEIVED,
    "queued": Outcome.RECEIVED, "executing": Outcome.RECEIVED,
    "done": Outcome.DONE, "success": Outcome.DONE, "ok": Outcome.DONE, "completed": Outcome.DONE,
    "executed": Outcome.DONE, "true": Outcome.DONE,
    "failed": Outcome.FAILED, "failure": Outcome.FAILED, "error": Outcome.FAILED,
    "rejected": Outcome.FAILED, "refused": Outcome.FAILED, "expired": Outcome.FAILED,
    "false": Outcome.FAILED,
}  # fmt: skip
_OUTCOME_KEYS = ("outcome", "status", "result", "success", "ack")
_REASON_KEYS = ("reason", "error", "message")


def answer_of(
    said: Mapping[str, object], measured_us: int, leave_out: frozenset[str] = frozenset()
) -> Event:
    """The answer that a flat object is, with all that it says.

    What names no command, or not as we would, stays among the attributes under the device's own
    name. Without a word of its outcome a command that is answered is done.
    """
    attributes = attributes_of(said, leave_out)
    command_id = attributes.pop("command_id", None)
    if command_id is None:
        command_id = attributes.get("id")
    if isinstance(command_id, str) and 0 < len(command_id) <= MAX_ID_TEXT:
        attributes["command_id"] = command_id
    command_seq = attributes.pop("command_seq", None)
    if is_seq(command_seq):
        attributes["command_seq"] = command_seq
    outcome = _outcome_of(said)
    if outcome is Outcome.FAILED:
        attributes["reason"] = _reason_of(attributes)
    attributes["outcome"] = outcome.value
    return Event(ANSWER, measured_us, attributes=attributes)


def is_seq(value: object) -> bool:
    """Whether this can be the number of a command."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SEQ


def _outcome_of(said: Mapping[str, object]) -> Outcome:
    for key in _OUTCOME_KEYS:
        word = said.get(key)
        if isinstance(word, bool | str):
            outcome = _WORDS.get(str(word).lower())
            if outcome is not None:
                return outcome
    return Outcome.FAILED if said.get("error") else Outcome.DONE


def _reason_of(attributes: Mapping[str, StateValue | None]) -> str:
    for key in (*_REASON_KEYS, *_OUTCOME_KEYS):
        word = attributes.get(key)
        if isinstance(word, str) and word:
            return word[:MAX_REASON_TEXT]
    return "the device does not say why"
