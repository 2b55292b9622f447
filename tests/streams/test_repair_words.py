"""A repair says in one sentence what was seen and what was counted."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from schemas.units import SECOND_US
from schemas.usage import Why
from streams.registers import Repair
from streams.repair_words import document, told, wh

WH = 10**6
AT_US = 1_772_330_405 * SECOND_US  # 2026-03-01 02:00:05 UTC


def repair(why: Why, energy: float, before: float, after: float, is_export: bool = False) -> Repair:
    amounts = (round(one * WH) for one in (energy, before, after))
    return Repair(AT_US, AT_US - 5 * SECOND_US, AT_US, why, is_export, *amounts)


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (
            repair(Why.REGISTER_ROLLOVER, 2, 9_999_999, 1),
            "the import register passed the end of its span, from 9,999,999 Wh to 1 Wh, "
            "and was counted on: 2 Wh",
        ),
        (
            repair(Why.REGISTER_RESET, 5, 1005.25, 1, is_export=True),
            "the export register began anew at 0, from 1,005.25 Wh to 1 Wh: 5 Wh counted, "
            "4 Wh of it known by power",
        ),
        (
            repair(Why.REGISTER_RESET, 1, 1005, 1),
            "the import register began anew at 0, from 1,005 Wh to 1 Wh: 1 Wh counted",
        ),
        (
            repair(Why.REGISTER_RESTORED, 1, 102, 98.5),
            "the import register went back from 102 Wh to an older value, 98.5 Wh, and is counted "
            "on from there; meanwhile 1 Wh by power",
        ),
        (
            repair(Why.METER_REPLACED, 0, 20_000_003, 900),
            "the import register went from 20,000,003 Wh to 900 Wh, as another meter's would, and "
            "is counted on from there; meanwhile 0 Wh by power",
        ),
        (
            repair(Why.REGISTER_SPIKE, 0, 101, 999_999),
            "the import register showed 999,999 Wh after 101 Wh, which the readings before and "
            "after contradict: passed over, nothing counted",
        ),
    ],
)
def test_each_kind_is_told_in_a_sentence(seen: Repair, text: str):
    assert told(seen) == text


def test_the_document_has_the_instants_in_the_zone_and_what_was_added_to_the_register():
    seen = repair(Why.REGISTER_ROLLOVER, 2, 9_999_999, 1)
    shown = document("l1", seen, ZoneInfo("Asia/Bangkok"))
    text = shown.pop("text")
    assert text == told(seen)
    assert str(shown.pop("start")) == "2026-03-01 09:00:00+07:00"
    at = datetime(2026, 3, 1, 2, 0, 5, tzinfo=UTC)
    assert shown == {
        "channel": "l1",
        "register": "import",
        "why": "register_rollover",
        "at": at,
        "end": at,
        "before_wh": 9_999_999.0,
        "after_wh": 1.0,
        "energy_wh": 2.0,
        "added_wh": 10_000_000.0,
    }


@pytest.mark.parametrize(
    ("uwh", "text"),
    [(0, "0 Wh"), (1_499, "0.001 Wh"), (999_999_500, "1,000 Wh"), (500, "0.001 Wh")],
)
def test_energy_is_told_in_wh_with_three_decimals_half_up(uwh: int, text: str):
    assert wh(uwh) == text
