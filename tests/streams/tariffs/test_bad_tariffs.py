"""Tariff data that contradicts itself is not loaded: the error names tariff, field and remedy."""

from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.tariffs.errors import BadTariff, BadUsage, NotKnown, UnknownTariff
from streams.tariffs.loading import catalogue_of, known_tariffs, parse_json, parse_toml
from streams.tariffs.month import Month
from streams.tariffs.rating import rate
from streams.tariffs.urdb import document_of
from streams.tariffs.usage import Usage, uwh_of
from tests.streams.tariffs.documents import FEBRUARY, document, february, one_period
from tests.streams.tariffs.test_urdb import RECORD


def rates_of(made):
    return made["tariffs"]["t"]["rates"][0]


def overlapping_blocks(made):
    rates_of(made)["energy"]["periods"]["day"] = [
        {"up_to": 400, "price": 2},
        {"up_to": 350, "price": 3},
        {"price": 4},
    ]


def blocks_of_the_same_end(made):
    overlapping_blocks(made)
    rates_of(made)["energy"]["periods"]["day"][1]["up_to"] = 400


def open_blocks(made):
    rates_of(made)["energy"]["periods"]["day"] = [{"up_to": 400, "price": 2}]


def block_without_end(made):
    rates_of(made)["energy"]["periods"]["day"] = [{"price": 2}, {"price": 3}]


def no_block(made):
    rates_of(made)["energy"]["periods"]["day"] = []


def hole_in_the_week(made):
    made["schedules"]["s"]["windows"][2]["days"] = ["mon", "tue", "thu", "fri", "sat", "sun"]


def hole_of_a_quarter_hour(made):
    made["schedules"]["s"]["windows"][0]["from"] = "06:15"


def hole_at_the_end(made):
    made["schedules"]["s"]["windows"][2]["to"] = "23:45"


def overlapping_windows(made):
    made["schedules"]["s"]["windows"][0]["from"] = "05:45"


def time_within_a_quarter_hour(made):
    made["schedules"]["s"]["windows"][0]["from"] = "06:10"


def time_that_is_none(made):
    made["schedules"]["s"]["windows"][0]["to"] = "25:00"


def window_over_midnight(made):
    made["schedules"]["s"]["windows"][2] |= {"from": "22:00", "to": "06:00"}


def unknown_kind_in_the_schedule(made):
    made["schedules"]["s"]["holidays"]["bank"] = "sun"


def kind_the_schedule_says_nothing_of(made):
    made["calendars"]["c"]["kinds"].append("royal")


def unknown_kind_in_the_calendar(made):
    made["calendars"]["c"]["days"]["2026-05-13"] = "royal"


def holiday_outside_the_years(made):
    made["calendars"]["c"]["days"]["2027-01-01"] = "public"


def unknown_calendar(made):
    made["schedules"]["s"]["calendar"] = "other"


def calendar_of_another_zone(made):
    made["calendars"]["c"]["zone"] = "Asia/Tokyo"


def unknown_schedule(made):
    rates_of(made)["energy"]["schedule"] = "other"


def period_without_price(made):
    made["schedules"]["s"]["windows"][1]["period"] = "deep_night"


def price_without_period(made):
    rates_of(made)["energy"]["periods"]["noon"] = [{"price": 1}]


def periods_without_schedule(made):
    del rates_of(made)["energy"]["schedule"]


def unknown_surcharge(made):
    rates_of(made)["surcharges"] = [{"name": "fx", "customer": "home"}]


def unknown_customer(made):
    rates_of(made)["surcharges"] = [{"name": "ft", "customer": "shop"}]


def rates_twice(made):
    made["tariffs"]["t"]["rates"] *= 2


def rates_of_no_month(made):
    rates_of(made)["until"] = "2026-01"


def surcharge_twice(made):
    made["surcharges"]["ft"]["customers"]["home"] *= 2


def month_that_is_none(made):
    rates_of(made)["from"] = "2026-13"


def no_energy_price(made):
    del rates_of(made)["energy"]


def price_that_is_no_number(made):
    rates_of(made)["energy"]["periods"]["night"] = [{"price": "cheap"}]


def key_that_nobody_reads(made):
    rates_of(made)["vat"] = 7


def no_rates(made):
    made["tariffs"]["t"]["rates"] = []


def unknown_zone(made):
    made["tariffs"]["t"]["zone"] = "Asia/Atlantis"


def unknown_rate_table(made):
    made["tariffs"]["t"] |= {"rates": [], "rate_table": "other"}


FAULTS = [
    (overlapping_blocks, "periods.day: blocks 1 and 2 overlap: 2 ends at 350, 1 at 400; let each"),
    (blocks_of_the_same_end, "blocks 1 and 2 overlap: 2 ends at 400, 1 at 400; let each"),
    (open_blocks, "nothing is priced above 400; leave up_to out of the last one"),
    (block_without_end, "block 1 has no end, but block 2 follows; give block 1 an up_to"),
    (no_block, "periods.day: no block; give at least one"),
    (hole_in_the_week, "month 1, wed 22:00-24:00 belongs to no period; add a window"),
    (hole_of_a_quarter_hour, "month 1, mon 06:00-06:15 belongs to no period; add a window"),
    (hole_at_the_end, "month 1, mon 23:45-24:00 belongs to no period; add a window"),
    (overlapping_windows, "month 1, mon 05:45 lies in two windows; begin 'day' at 06:00"),
    (time_within_a_quarter_hour, "06:10 lies within a quarter hour of the ledger; use :00 :15"),
    (time_that_is_none, "'25:00' is no time of day; write 09:00"),
    (window_over_midnight, "22:00-06:00 is empty; split a window that crosses midnight"),
    (unknown_kind_in_the_schedule, "unknown holiday kind 'bank'; calendar 'c' has public"),
    (kind_the_schedule_says_nothing_of, "says nothing of the kind 'royal' of calendar 'c'; give"),
    (unknown_calendar, 'calendar: "other" is not defined; define it, or use one of c'),
    (calendar_of_another_zone, "are of Asia/Tokyo, the tariff is of Asia/Bangkok; use a"),
    (unknown_schedule, 'schedule: "other" is not defined; define it, or use one of s'),
    (period_without_price, "period 'deep_night' of the schedule has no price; add its blocks"),
    (price_without_period, "period 'noon' is never in the schedule; remove it or place it"),
    (periods_without_schedule, "2 periods (day, night) without a schedule; name the schedule"),
    (unknown_surcharge, '"fx" is not defined; define it, or use one of ft'),
    (unknown_customer, '"shop" is not defined; define it, or use one of home'),
    (rates_twice, "2026-01 is valid twice: the rates before it end at no month; set their until"),
    (rates_of_no_month, "from 2026-01 until 2026-01 holds no month; until is exclusive"),
    (month_that_is_none, "'2026-13' has no month 13; write 01 to 12"),
    (no_energy_price, "no energy prices; give energy or spot, or say why in unknown"),
    (price_that_is_no_number, "energy.periods.night.0.price: Input should be a valid decimal"),
    (key_that_nobody_reads, "rates.0.vat: is read by nobody; remove it, or look for a misspelt"),
    (no_rates, "name a rate_table or give rates of its own, not both"),
    (unknown_zone, "'Asia/Atlantis' is no time zone; name one like Asia/Bangkok"),
    (unknown_rate_table, 'rate_table: "other" is not defined; define it'),
]


@pytest.mark.parametrize(("spoil", "told"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_a_tariff_that_contradicts_itself_is_refused(spoil, told):
    made = document()
    spoil(made)
    with pytest.raises(BadTariff) as raised:
        catalogue_of([made])
    assert str(raised.value).startswith('tariff "t": ')
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unknown_kind_in_the_calendar, "calendars.c: 2026-05-13 is of the unknown holiday kind"),
        (holiday_outside_the_years, "calendars.c: 2027-01-01 lies outside years (2026, 2026)"),
        (surcharge_twice, "surcharges.ft: customers.home: 2026-01 is valid twice"),
    ],
)
def test_what_many_tariffs_share_is_named_by_its_own_name(spoil, told):
    made = document()
    spoil(made)
    with pytest.raises(BadTariff) as raised:
        catalogue_of([made])
    assert str(raised.value).startswith(told)


def places(value, path=()):
    """Every place within a document, but the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from places(one, (*path, key))


def with_at(value, path, junk):
    if not path:
        return junk
    copied = value.copy()
    copied[path[0]] = with_at(value[path[0]], path[1:], junk)
    return copied


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def refusal(made):
    """What is said against a document, or None."""
    try:
        catalogue_of([made()])
    except BadTariff as error:
        return str(error)
    return None


@settings(deadline=None)
@given(st.sampled_from(list(places(document()))), JUNK)
def test_whatever_stands_at_any_place_is_taken_or_refused_with_its_reason(path, junk):
    assert refusal(lambda: with_at(document(), path, junk)) != ""


@settings(deadline=None)
@given(st.sampled_from(list(places(RECORD))), JUNK)
@example(("energyweekdayschedule", 4, 0), False)
def test_whatever_stands_in_a_record_of_urdb_is_taken_or_refused(path, junk):
    record = with_at(RECORD, path, junk)
    said = refusal(lambda: document_of(record, tariff_id="u", zone="UTC"))
    assert said is None or said.startswith('tariff "u": ')


def test_the_document_without_a_fault_is_taken():
    assert catalogue_of([document()]).ids == ["t"]


def test_a_fault_in_a_shared_table_names_the_tariffs_that_use_it():
    made = document()
    made["rate_tables"] = {"r": made["tariffs"]["t"].pop("rates")}
    made["tariffs"]["t"]["rate_table"] = "r"
    made["rate_tables"]["r"][0]["energy"]["periods"]["night"] = [{"up_to": 5, "price": 1}]
    with pytest.raises(BadTariff, match=r'^tariff "t": rate_tables\.r\.0\.energy: periods\.night'):
        catalogue_of([made])


def test_a_name_in_two_files_is_refused():
    with pytest.raises(BadTariff, match=r"calendars\.c is defined twice; rename or remove one"):
        catalogue_of([document(), document()])


def test_text_that_is_no_document_is_refused():
    with pytest.raises(BadTariff, match=r"my\.toml is no TOML: .*; correct that line"):
        parse_toml("my.toml", "[tariffs")
    with pytest.raises(BadTariff, match=r"my\.json is no JSON"):
        parse_json("my.json", "{")
    with pytest.raises(BadTariff, match=r"my\.json is no JSON object"):
        parse_json("my.json", "[]")


def test_a_month_without_ft_is_an_error():
    catalogue = catalogue_of([document()])
    with pytest.raises(NotKnown, match="ft of home customers is not known for 2026-05; add it to"):
        catalogue.rates("t", Month(2026, 5))
    with pytest.raises(NotKnown, match="ft of home customers is not known for 2027-01"):
        known_tariffs().rates("mea-1.2", Month(2027, 1))


@pytest.mark.parametrize("utility", ["mea", "pea"])
@pytest.mark.parametrize("number", ["1.3.1", "1.3.2", "2.1.2", "2.2.2", "3.2.3"])
def test_rates_that_are_not_published_are_not_guessed(utility, number):
    tariff_id = f"{utility}-{number}"
    assert known_tariffs().rates(tariff_id, Month(2026, 8)).rates.unknown is None
    with pytest.raises(NotKnown, match=f'tariff "{tariff_id}": the rates of 2026-09 are not known'):
        known_tariffs().rates(tariff_id, Month(2026, 9))


def test_rates_before_the_first_known_ones_are_an_error():
    with pytest.raises(NotKnown, match="the rates of 2023-04 are not known; known are 2023-05"):
        known_tariffs().rates("mea-1.1", Month(2023, 4))


def test_an_unknown_tariff_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownTariff, match=r'no tariff is called "mea-9"; known are mea-1\.1'):
        known_tariffs().rates("mea-9", FEBRUARY)


def test_energy_of_a_period_that_was_not_given_is_an_error():
    rates, cycle = february(document())
    with pytest.raises(BadUsage, match="tariff \"t\": the energy of period 'night' is missing"):
        rate(rates, cycle, Usage(1, {"day": 1}))


def test_demand_that_was_not_given_is_an_error():
    demand = [{"periods": {"all": [{"price": 210}]}}]
    rates, cycle = february(one_period(demand=demand))
    with pytest.raises(BadUsage, match="the greatest demand of period 'all' is missing"):
        rate(rates, cycle, Usage(1, {"all": 1}))


@pytest.mark.parametrize("kwh", ["-1", "NaN", "Infinity", "0.0000000001"])
def test_what_is_no_energy_is_refused(kwh):
    with pytest.raises(BadUsage, match="is no energy; give 0 or more"):
        uwh_of(Decimal(kwh))
