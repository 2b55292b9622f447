"""Whatever words a device answers in, the same outcomes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.decoders.answers import answer_of
from schemas.command import ANSWER
from schemas.decoded import Undecodable


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"outcome": "received"}, "received"),
        ({"status": "success"}, "done"),
        ({"status": "SUCCESS"}, "done"),
        ({"success": True}, "done"),
        ({"success": False, "message": "relay stuck"}, "failed"),
        ({"result": "ok"}, "done"),
        ({"ack": "set_relay_state"}, "done"),
        ({"error": "no such relay"}, "failed"),
        ({"relay": "on"}, "done"),
        ({"status": "online", "command_id": "c"}, "done"),
    ],
)
def test_outcomes(said, outcome):
    event = answer_of(said, 5)
    assert (event.name, event.measured_us) == (ANSWER, 5)
    assert event.attributes["outcome"] == outcome
    assert said.items() - event.attributes.items() <= {("outcome", outcome)}


def test_a_failure_has_a_reason():
    assert answer_of({"error": "no such relay"}, 0).attributes["reason"] == "no such relay"
    assert answer_of({"status": "error"}, 0).attributes["reason"] == "error"
    assert answer_of({"success": False}, 0).attributes["reason"]
    said = {"outcome": "failed", "reason": "expired", "error": "E7"}
    assert answer_of(said, 0).attributes["reason"] == "expired"


@pytest.mark.parametrize("number", [0, -1, 2**31, True, "7", 1.5, None])
def test_what_is_no_number_of_a_command_is_none(number):
    assert "command_seq" not in answer_of({"command_seq": number}, 0).attributes


@pytest.mark.parametrize("text", ["", "x" * 65, 7, None, True])
def test_what_is_no_id_of_a_command_is_none(text):
    assert "command_id" not in answer_of({"command_id": text}, 0).attributes


KEYS = ["command_id", "command_seq", "outcome", "status", "success", "error", "reason", "id"]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.text(max_size=3))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_no_answer_breaks_it(said):
    try:
        attributes = answer_of(said, 0).attributes
    except Undecodable:
        return
    assert attributes["outcome"] in ("received", "done", "failed")
    assert isinstance(attributes.get("command_id", ""), str)
    assert type(attributes.get("command_seq", 1)) is int
    if attributes["outcome"] == "failed":
        assert isinstance(attributes["reason"], str)
