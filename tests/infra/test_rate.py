"""`meterstream rate`: a bill from figures, and what it says when there can be none."""

import json

import pytest
import typer
from typer.testing import CliRunner

from infra.cli import rate

BAD_INPUT_EXIT = 65


def run(*arguments):
    app = typer.Typer()
    app.callback()(lambda: None)  # or the only command would lose its name
    rate.register(app)
    return CliRunner().invoke(app, ["rate", *arguments])


def bill(*arguments):
    ended = run(*arguments, "--json")
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def test_a_bill_of_blocks():
    shown = bill("--tariff", "mea-1.2", "--month", "2026-09", "--energy-kwh", "454")
    #  200 x 3 + 200 x 4.1584 + 54 x 4.3583 = 1667.0282; 454 x 0.1623 = 73.6842 (a bill of MEA)
    assert {key: shown[key] for key in list(shown) if key != "lines"} == {
        "tariff": "mea-1.2",
        "month": "2026-09",
        "currency": "THB",
        "energy": "1667.03",
        "ft": "73.68",
        "service": "24.62",
        "demand": "0.00",
        "minimum": "0.00",
        "credit": "0.00",
        "subtotal": "1765.33",
        "vat": "123.57",
        "total": "1888.90",
    }
    first = shown["lines"][0]
    assert first | {"parts": None} == {
        "kind": "energy",
        "name": "all",
        "quantity": "454",
        "unit": "kWh",
        "amount": "1667.03",
        "parts": None,
    }
    assert first["parts"][2] == {
        "above": "400",
        "up_to": None,
        "quantity": "54",
        "price": "4.3583",
        "amount": "235.3482",
    }


@pytest.mark.parametrize(
    "energy",
    [
        ("--on-peak-kwh", "200", "--off-peak-kwh", "300"),
        ("--energy-kwh", "500", "--on-peak-kwh", "200", "--off-peak-kwh", "300"),
        ("--energy-kwh", "500", "--on-peak-kwh", "200"),
        ("--energy-kwh", "500.0", "--off-peak-kwh", "3E2"),
    ],
)
def test_a_bill_by_time_of_use(energy):
    shown = bill("--tariff", "pea-1.3.2", "--month", "2026-02", *energy)
    assert (shown["energy"], shown["ft"], shown["total"]) == ("1950.71", "48.60", "2165.61")
    assert [line["amount"] for line in shown["lines"][:2]] == ["1159.64", "791.07"]


def test_a_bill_with_demand():
    energy = ("--on-peak-kwh", "4943", "--off-peak-kwh", "2319", "--demand-kw", "33")
    shown = bill("--tariff", "mea-3.2.3", "--month", "2026-02", *energy)
    assert (shown["demand"], shown["total"]) == ("6930.00", "37947.33")


def test_a_page_for_people():
    ended = run("--tariff", "mea-1.2", "--month", "2026-09", "--energy-kwh", "454")
    assert ended.exit_code == 0
    assert "above 400" in ended.stdout
    assert "1888.90" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("mea-9", "2026-02", "--energy-kwh", "1"),
            'no tariff is called "mea-9"; known are mea-1.1',
        ),
        (("mea-1.2", "2027-01", "--energy-kwh", "1"), "ft of home customers is not known for 2027"),
        (("mea-1.2", "2023-04", "--energy-kwh", "1"), "the rates of 2023-04 are not known"),
        (
            ("pea-1.3.2", "2026-09", "--on-peak-kwh", "1", "--off-peak-kwh", "1"),
            'tariff "pea-1.3.2": the rates of 2026-09 are not known',
        ),
        (("mea-1.2", "2026-02"), "no energy was given; give --energy-kwh"),
        (("mea-1.3.2", "2026-02", "--energy-kwh", "1"), "give --on-peak-kwh and --off-peak-kwh"),
        (
            ("mea-1.3.2", "2026-02", "--energy-kwh", "2", "--on-peak-kwh", "3"),
            "--on-peak-kwh is more than --energy-kwh",
        ),
        (
            (
                *("mea-1.3.2", "2026-02", "--energy-kwh", "9"),
                *("--on-peak-kwh", "3", "--off-peak-kwh", "3"),
            ),
            "are not --energy-kwh 9; leave it out or correct one",
        ),
        (
            ("mea-3.2.3", "2026-02", "--on-peak-kwh", "3", "--off-peak-kwh", "3"),
            'tariff "mea-3.2.3" has a demand charge; give --demand-kw',
        ),
    ],
)
def test_no_bill_without_what_it_needs(arguments, told):
    tariff, month, *energy = arguments
    ended = run("--tariff", tariff, "--month", month, *energy, "--json")
    assert (ended.exit_code, ended.stdout) == (BAD_INPUT_EXIT, "")
    assert told in ended.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--energy-kwh", "-1"),
        ("--energy-kwh", "much"),
        ("--energy-kwh", "inf"),
        ("--month", "2026-13"),
        ("--month", "February"),
    ],
)
def test_what_is_no_quantity_or_month_is_refused(option, value):
    given = {"--tariff": "mea-1.2", "--month": "2026-02", "--energy-kwh": "1"} | {option: value}
    ended = run(*(part for pair in given.items() for part in pair))
    assert ended.exit_code == 2
    assert value in ended.stderr
