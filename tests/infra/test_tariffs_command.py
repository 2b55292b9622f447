"""`meterstream tariffs`: what is known, what it says, and what is wrong with a file of yours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.cli import rate, tariffs
from streams.tariffs.loading import known_tariffs
from tests.infra.command_line import CommandLine

NOWHERE = "postgresql://meterstream@127.0.0.1:1/nowhere"
OWN = """
[tariffs.village]
title = "Village"
currency = "THB"
zone = "Asia/Bangkok"

[[tariffs.village.rates]]
from = "2026-01"
source = "the village's notice"
energy.schedule = "thai_tou"
energy.periods.on_peak = [{ up_to = 100, price = 5.10 }, { price = 6 }]
energy.periods.off_peak = [{ price = 2.5 }]
fixed = [{ price = 30 }]
taxes = [{ rate = 0.07 }]
"""
#  An hour of a day of URDB's schedules is a number of energyratestructure.
EVENING = [0] * 17 + [1] * 4 + [0] * 3
RECORD: dict[str, Any] = {
    "label": "539f6a23ec4f024411ec8bf9",
    "name": "Residential TOU",
    "utility": "A utility",
    "fixedchargefirstmeter": 9,
    "energyratestructure": [[{"rate": 0.1, "adj": 0.012345}], [{"rate": 0.3}]],
    "energyweekdayschedule": [EVENING] * 12,
    "energyweekendschedule": [[0] * 24] * 12,
}
ZONE = ("--zone", "America/Denver")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own."""
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.fixture
def run(own: Path) -> Iterator[Any]:
    """Each command line reads the tariffs anew, as a process does."""
    environment = {"METERSTREAM_TARIFFS_DIR": str(own)}
    line = CommandLine(NOWHERE, rate, tariffs, environment=environment)

    def one(*arguments: str, code: int = 0) -> Any:
        known_tariffs.cache_clear()
        return line(*arguments, code=code)

    yield one
    known_tariffs.cache_clear()


def test_the_list_says_of_which_months_the_rates_are_known(run: Any):
    rows = {row["id"]: row for row in run("tariffs", "list", "--json")}
    assert rows["mea-1.2"]["known"] == [{"from": "2023-05", "until": None}]
    assert rows["mea-1.3.2"]["known"] == [{"from": "2023-05", "until": "2026-09"}]
    assert rows["pea-1.1"]["currency"] == "THB"
    told = run("tariffs", "list")
    assert "mea-3.2.3" in told
    assert "2023-05 until 2026-09" in told


def test_what_a_tariff_costs_in_a_month(run: Any):
    shown = run("tariffs", "show", "mea-1.2", "--month", "2026-02", "--json")
    assert (shown["from"], shown["until"]) == ("2023-05", "2026-09")
    assert shown["energy"]["periods"]["all"] == [
        {"up_to": "150", "price": "3.2484"},
        {"up_to": "400", "price": "4.2218"},
        {"price": "4.4217"},
    ]
    assert shown["fixed"] == [{"name": "service", "price": "24.62", "per": "month"}]
    assert [(one["name"], one["price"]) for one in shown["surcharges"]] == [("ft", "0.0972")]
    assert shown["taxes"] == [{"name": "vat", "rate": "0.07"}]
    assert shown["category"]["small"] == "mea-1.1"
    told = run("tariffs", "show", "mea-1.3.2", "--month", "2026-02")
    assert "on_peak: 09:00 to 22:00, mon tue wed thu fri" in told
    assert "holidays of the kind royal_ploughing count as weekday" in told
    assert "5.7982" in told


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("mea-9",), 'no tariff is called "mea-9"; known are mea-1.1', 65),
        (("mea-1.3.2", "--month", "2026-09"), "no time-of-use rates from September 2026", 65),
        (("mea-1.2", "--month", "2026-9"), "'2026-9' is no month; write it as 2026-02", 2),
    ],
)
def test_what_cannot_be_shown_says_why(run: Any, arguments: Any, said: str, code: int):
    told = " ".join(run("tariffs", "show", *arguments, code=code).replace("│", " ").split())
    assert said in told


def test_a_file_of_ones_own_is_checked_and_then_known(run: Any, own: Path, tmp_path: Path):
    draft = tmp_path / "village.toml"
    draft.write_text(OWN)
    (row,) = run("tariffs", "check", str(draft), "--json")
    assert (row["id"], row["known"]) == ("village", [{"from": "2026-01", "until": None}])
    assert "village" not in run("tariffs", "list"), "a check changes nothing"
    draft.rename(own / "village.toml")
    assert run("tariffs", "check", str(own / "village.toml"), "--json") == [row]
    assert "village" in run("tariffs", "list")
    bill = run(
        "rate", "--tariff", "village", "--month", "2026-02", "--json",
        "--on-peak-kwh", "150", "--off-peak-kwh", "100",
    )  # fmt: skip
    #  100 x 5.10 + 50 x 6 = 810; 100 x 2.5 = 250; 30; 1090 + 7 % = 1166.30
    assert bill["total"] == "1166.30"


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("up_to = 100, ", "", 'tariff "village": tariffs.village.rates.0.energy: periods.on_peak'),
        ("thai_tou", "thai", 'schedule: "thai" is not defined; define it, or use one of thai_tou'),
        ('currency = "THB"\n', "", "tariffs.village.currency: is missing; give it"),
        ("fixed = ", "fixe = ", "rates.0.fixe: is read by nobody; remove it, or look for a mis"),
        ("tariffs.village", 'tariffs."mea-1.2"', "tariffs.mea-1.2 is defined twice; rename or re"),
        ("2026-01", "2026-1", "'2026-1' is no month; write it as 2026-02"),
        ("price = 2.5", "price = ", "village.toml is no TOML:"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_tariff_field_and_remedy(
    run: Any, tmp_path: Path, right: str, wrong: str, said: str
):
    path = tmp_path / "village.toml"
    assert right in OWN
    path.write_text(OWN.replace(right, wrong))
    told = run("tariffs", "check", str(path), code=65)
    assert said in told
    assert told.count("\n") == 1


def test_a_file_that_is_not_there_or_no_text(run: Any, tmp_path: Path):
    assert "cannot be read" in run("tariffs", "check", str(tmp_path / "none.toml"), code=65)
    (tmp_path / "odd.json").write_text('{"tariffs": 5}')
    assert "tariffs is no table" in run("tariffs", "check", str(tmp_path / "odd.json"), code=65)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in run("tariffs", "check", str(tmp_path / "bytes.toml"), code=65)


def test_a_broken_file_in_the_folder_ends_every_command_in_one_line(run: Any, own: Path):
    (own / "broken.toml").write_text(OWN.replace("thai_tou", "thai"))
    assert run("tariffs", "list", code=65).startswith('meterstream: tariff "village": rates from')


# ---------------------------------------------------------------- URDB


def given(folder: Path, value: object) -> str:
    path = folder / "records.json"
    path.write_text(json.dumps(value))
    return str(path)


@pytest.mark.parametrize("wrapped", ["record", "list", "items"])
def test_a_record_of_urdb_becomes_a_tariff(run: Any, own: Path, tmp_path: Path, wrapped: str):
    said = {"record": RECORD, "list": [RECORD], "items": {"items": [RECORD]}}[wrapped]
    out = own / "denver.json"
    (row,) = run(
        "tariffs", "import-urdb", given(tmp_path, said), *ZONE, "--id", "denver",
        "--out", str(out), "--json",
    )  # fmt: skip
    assert (row["id"], row["currency"], row["zone"]) == ("denver", "USD", "America/Denver")
    assert "denver" in run("tariffs", "list")
    shown = run("tariffs", "show", "denver", "--month", "2026-02", "--json")
    parts = ("--period-kwh", "0=200", "--period-kwh", "1=10.5")
    bill = run("rate", "--tariff", "denver", "--month", "2026-02", *parts, "--json")
    #  200 x 0.112345 = 22.469; 10.5 x 0.3 = 3.15; 9 a month
    assert [line["amount"] for line in bill["lines"]] == ["22.47", "3.15", "9.00"]
    short = ("rate", "--tariff", "denver", "--month", "2026-02")
    needs = "give --period-kwh 0=X --period-kwh 1=X"
    assert needs in run(*short, "--energy-kwh", "5", code=65)
    for wrong in (parts[:2], (*parts, *parts[:2]), (*parts, "--energy-kwh", "5")):
        assert "has the periods 0, 1; give --period-kwh once for" in run(*short, *wrong, code=65)
    #  0.1 + 0.012345, exactly
    assert shown["energy"]["periods"]["0"] == [{"price": "0.112345"}]
    windows = shown["schedules"]["denver energy"]["windows"]
    assert {"period": "1", "from": "17:00", "to": "21:00",
            "days": ["mon", "tue", "wed", "thu", "fri"], "months": [2]} in windows  # fmt: skip


def test_several_records_are_called_by_their_labels(run: Any, tmp_path: Path):
    two = [RECORD, RECORD | {"label": "other"}]
    out = tmp_path / "two.json"
    command = ("tariffs", "import-urdb", given(tmp_path, two), *ZONE, "--out", str(out))
    assert "would name 2 tariffs" in run(*command, "--id", "x", code=65)
    assert not out.exists()
    rows = run(*command, "--json")
    assert [row["id"] for row in rows] == ["urdb-539f6a23ec4f024411ec8bf9", "urdb-other"]
    assert [row["id"] for row in run("tariffs", "check", str(out), "--json")] == [
        row["id"] for row in rows
    ]
    assert "cannot be written" in run(*command, code=65), "a file that is there stays as it is"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"energyratestructure": 5}, "URDB energyratestructure: has no period or an empty one"),
        ({"energyratestructure": [[5], [5]]}, "has a period that is no list of tiers"),
        (
            {"energyratestructure": [[{"rate": "dear"}], [{"rate": 1}]]},
            "URDB energyratestructure[0][0]: is 'dear'; give a number",
        ),
        ({"fixedchargefirstmeter": [1]}, "URDB fixedchargefirstmeter: is [1]; give a number"),
        ({"startdate": 1e30}, "URDB startdate: is"),
        ({"demandratestructure": [[{"rate": 1}]]}, "URDB demandweekdayschedule: is not 12 months"),
        ({"annualmincharge": 100}, "a minimum of the year cannot be billed; enter the tariff by"),
    ],
)
def test_a_record_that_would_be_billed_wrongly_is_no_tariff(
    run: Any, tmp_path: Path, changed: dict[str, Any], said: str
):
    out = tmp_path / "x.json"
    file = given(tmp_path, RECORD | changed)
    told = run("tariffs", "import-urdb", file, *ZONE, "--out", str(out), code=65)
    assert told.startswith('meterstream: tariff "urdb-539f6a23ec4f024411ec8bf9": ')
    assert said in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "records.json is no JSON"), ("[]", "holds no URDB record"), ("[5]", "holds no URDB")],
)
def test_a_file_without_a_record_says_so(run: Any, tmp_path: Path, text: str, said: str):
    path = tmp_path / "records.json"
    path.write_text(text)
    out = str(tmp_path / "x.json")
    assert said in run("tariffs", "import-urdb", str(path), *ZONE, "--out", out, code=65)


def test_a_zone_that_is_none_is_told(run: Any, tmp_path: Path):
    file, out = given(tmp_path, RECORD), str(tmp_path / "x.json")
    told = run("tariffs", "import-urdb", file, "--zone", "Denver", "--out", out, code=65)
    assert "'Denver' is no time zone; name one like Asia/Bangkok" in told
