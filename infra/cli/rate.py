"""`meterstream rate`: what so much energy costs in a billing month. It asks no server."""

import json
import os
import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.tariffs.catalogue import MonthRates
    from streams.tariffs.rating import RatedBill
    from streams.tariffs.usage import Usage

ON_PEAK, OFF_PEAK = "on_peak", "off_peak"


def register(app: typer.Typer) -> None:
    app.command("rate")(rate)


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise typer.BadParameter(f"{text!r:.40} is no quantity; give a number of 0 or more")
    return number


Quantity = Annotated[Decimal | None, typer.Option(parser=_decimal, metavar="X")]


def rate(
    tariff: Annotated[str, typer.Option("--tariff", metavar="ID", help="As mea-1.2.")],
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")],
    energy_kwh: Quantity = None,
    on_peak_kwh: Quantity = None,
    off_peak_kwh: Quantity = None,
    demand_kw: Quantity = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Rate the energy of one billing month.

    A tariff by time of use needs --on-peak-kwh and --off-peak-kwh, one with demand --demand-kw.
    """
    from streams.tariffs.errors import TariffError
    from streams.tariffs.loading import known_tariffs
    from streams.tariffs.month import Month, cycle_of
    from streams.tariffs.rating import rate as rated

    try:
        billing_month = Month.parse(month)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--month") from error
    try:
        rates = known_tariffs().rates(tariff, billing_month)
        cycle = cycle_of(billing_month, rates.tariff.zone)
        usage = _usage(rates, energy_kwh, on_peak_kwh, off_peak_kwh, demand_kw)
        bill = rated(rates, cycle, usage)
    except TariffError as error:
        print(f"meterstream: {error}", file=sys.stderr)
        raise typer.Exit(os.EX_DATAERR) from error
    if as_json:
        print(json.dumps(bill.document(), ensure_ascii=False))
    else:
        _print_bill(rates, bill)


def _usage(
    rates: "MonthRates",
    energy_kwh: Decimal | None,
    on_peak_kwh: Decimal | None,
    off_peak_kwh: Decimal | None,
    demand_kw: Decimal | None,
) -> "Usage":
    """What the options say, as the tariff needs it. Raises BadUsage where they say too little."""
    from streams.tariffs.errors import BadUsage
    from streams.tariffs.usage import Usage, uwh_of

    split = on_peak_kwh is not None and off_peak_kwh is not None
    if energy_kwh is None and not split:
        raise BadUsage("no energy was given; give --energy-kwh, or both parts of a time of use")
    on_uwh, off_uwh, total_uwh = (
        None if kwh is None else uwh_of(kwh) for kwh in (on_peak_kwh, off_peak_kwh, energy_kwh)
    )
    if on_uwh is not None and off_uwh is not None:
        if total_uwh not in (None, on_uwh + off_uwh):
            raise BadUsage(
                f"--on-peak-kwh {on_peak_kwh} and --off-peak-kwh {off_peak_kwh} are not "
                f"--energy-kwh {energy_kwh}; leave it out or correct one"
            )
        total_uwh = on_uwh + off_uwh
    assert total_uwh is not None
    periods = [] if rates.rates.energy is None else list(rates.rates.energy.periods)
    energy = {periods[0]: total_uwh} if len(periods) == 1 else {}
    if set(periods) == {ON_PEAK, OFF_PEAK}:
        if on_uwh is None or off_uwh is None:
            raise BadUsage(
                f'tariff "{rates.tariff.id}" is by time of use; '
                "give --on-peak-kwh and --off-peak-kwh"
            )
        energy = {ON_PEAK: on_uwh, OFF_PEAK: off_uwh}
    if demand_kw is None and rates.demand:
        raise BadUsage(f'tariff "{rates.tariff.id}" has a demand charge; give --demand-kw')
    demand = {
        (index, period): demand_kw
        for index, charge in enumerate(rates.demand)
        for period in charge.prices.periods
        if demand_kw is not None
    }
    return Usage(total_uwh, energy, demand_kw=demand)


def _print_bill(rates: "MonthRates", bill: "RatedBill") -> None:
    from rich.console import Console
    from rich.table import Table

    from streams.tariffs.rating import plain, shortest

    console = Console()
    console.print(f"{rates.tariff.id} {bill.cycle.month}: {rates.tariff.title}")
    table = Table(box=None)
    table.add_column("line")
    for title in ("quantity", "price", bill.currency):
        table.add_column(title, justify="right")
    for line in bill.lines:
        quantity = "" if line.quantity is None else f"{shortest(line.quantity)} {line.unit}"
        price = "" if line.price is None else plain(line.price)
        name = line.kind if line.kind == line.name else f"{line.kind} {line.name}"
        table.add_row(name, quantity, price, plain(line.amount))
        for part in line.parts if len(line.parts) > 1 else ():
            share = f"{shortest(part.quantity)} {line.unit}"
            table.add_row(f"  above {shortest(part.above)}", share, plain(part.price), "")
    table.add_row("total", "", "", plain(bill.total))
    console.print(table)
