"""What a meter is asked for, and what its answers mean."""

import json

import pytest

from ingest.poller.healing import PAGE_US, Answer, Page, answer_to, next_page, request
from schemas.units import HOUR_US, MINUTE_US, SECOND_US

BEGIN_US = 1_763_704_800 * SECOND_US
PAGE = Page("emdata:0", BEGIN_US, BEGIN_US + HOUR_US)
NOW_US = BEGIN_US + 3 * HOUR_US
METER = "shellypro3em-ec6260890b50"
TOPIC = f"meterstream/{METER}/rpc"
KEYS = ["a_total_act_energy", "b_total_act_energy", "c_total_act_energy"]


def reply(records: int, **other: object) -> bytes:
    data = [{"ts": BEGIN_US // SECOND_US, "period": 60, "values": [[1, 2, 3]] * records}]
    frame = {
        "id": PAGE.request_id,
        "src": METER,
        "result": {"keys": KEYS, "data": data if records else [], **other},
    }
    return json.dumps(frame).encode()


def test_an_hour_is_asked_for_at_once():
    end_us = BEGIN_US + 6 * HOUR_US + 15 * MINUTE_US
    at_us, pages = BEGIN_US, []
    while at_us < end_us:
        page = next_page("emdata:0", at_us, end_us)
        pages.append((page.end_us - page.start_us) // MINUTE_US)
        at_us = page.end_us
    assert pages == [60] * 6 + [15]
    assert PAGE_US == HOUR_US


def test_the_question_names_its_component_and_where_the_answer_goes():
    topic, payload = request("shellies/attic", Page("em1data:2", BEGIN_US, BEGIN_US + HOUR_US))
    assert topic == "shellies/attic/rpc"
    assert json.loads(payload) == {
        "id": "em1data:2@1763704800",
        "src": "meterstream/shellies/attic",
        "method": "EM1Data.GetData",
        "params": {"id": 2, "ts": 1763704800, "end_ts": 1763704800 + 3599},
    }


def test_a_whole_answer_moves_on_to_the_end_of_its_page():
    assert answer_to(PAGE, TOPIC, reply(60), NOW_US) == Answer(PAGE.end_us, 60)


def test_a_meter_that_has_nothing_for_the_time_was_off():
    assert answer_to(PAGE, TOPIC, reply(0), NOW_US) == Answer(PAGE.end_us, 0)


def test_an_answer_in_parts_says_where_to_go_on():
    next_ts = BEGIN_US // SECOND_US + 20 * 60
    answer = answer_to(PAGE, TOPIC, reply(20, next_record_ts=next_ts), NOW_US)
    assert answer == Answer(BEGIN_US + 20 * MINUTE_US, 20)


@pytest.mark.parametrize("beyond_s", [-60, 0, 3600, 7200])
def test_a_next_record_outside_of_the_page_ends_it(beyond_s):
    next_ts = BEGIN_US // SECOND_US + beyond_s
    answer = answer_to(PAGE, TOPIC, reply(60, next_record_ts=next_ts), NOW_US)
    assert answer == Answer(PAGE.end_us, 60)


@pytest.mark.parametrize(("code", "for_good"), [(404, True), (-105, True), (-109, False)])
def test_an_error_says_whether_to_ask_again(code, for_good):
    frame = {"id": PAGE.request_id, "src": METER, "error": {"code": code, "message": "no"}}
    answer = answer_to(PAGE, TOPIC, json.dumps(frame).encode(), NOW_US)
    assert answer == Answer(PAGE.start_us, 0, f"no ({code})", for_good)


def test_an_answer_that_cannot_be_read_is_asked_for_again():
    frame = {"id": PAGE.request_id, "src": METER, "result": {"keys": [], "data": []}}
    answer = answer_to(PAGE, TOPIC, json.dumps(frame).encode(), NOW_US)
    assert answer is not None
    assert (answer.until_us, answer.for_good) == (PAGE.start_us, False)
    assert "a_total_act_energy" in (answer.error or "")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        json.dumps({"id": 7, "result": {"was_on": True}}).encode(),
        json.dumps({"id": "emdata:0@1763701200", "result": {"keys": KEYS, "data": []}}).encode(),
        json.dumps({"id": None}).encode(),
    ],
)
def test_answers_to_others_and_late_ones_are_none(payload):
    assert answer_to(PAGE, TOPIC, payload, NOW_US) is None
