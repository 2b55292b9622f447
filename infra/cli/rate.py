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


def decimal_of(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise typer.BadParameter(f"{text!r:.40} is no quantity; give a number of 0 or more")
    return number


Quantity = Annotated[Decimal | None, typer.Option(parser=decimal_of, metavar="X")]


def rate(
    tariff: Annotated[str, typer.Option("--tariff", metavar="ID", help="As mea-1.2.")],
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")],
    energy_kwh: Quantity = None,
    on_peak_kwh: Quantity = None,
    off_peak_kwh: Quantity = None,
    demand_kw: Quantity = None,
    period_kwh: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=X", help="Of each period of another tariff by time of use."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Rate the energy of one billing month.

    A tariff by time of use needs --on-peak-kwh and --off-peak-kwh, or --period-kwh for each of its
    periods; one with demand --demand-kw.
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
        energy = _energy(rates, energy_kwh, on_peak_kwh, off_peak_kwh, period_kwh)
        usage = _usage(rates, energy, demand_kw)
        bill = rated(rates, cycle, usage)
    except TariffError as error:
        print(f"meterstream: {error}", file=sys.stderr)
        raise typer.Exit(os.EX_DATAERR) from error
    if as_json:
        print(json.dumps(bill.document(), ensure_ascii=False))
    else:
        _print_bill(rates, bill)


def _energy(
    rates: "MonthRates",
    energy_kwh: Decimal | None,
    on_peak_kwh: Decimal | None,
    off_peak_kwh: Decimal | None,
    period_kwh: list[str] | None,
) -> dict[str, Decimal]:
    """kWh of each period of the tariff. Raises BadUsage where the options say too little."""
    from streams.tariffs.errors import BadUsage

    tariff_id = rates.tariff.id
    periods = [] if rates.rates.energy is None else list(rates.rates.energy.periods)
    split = _split(energy_kwh, on_peak_kwh, off_peak_kwh)
    total_kwh = split[0] + split[1] if split else energy_kwh
    if period_kwh:
        told = dict(map(_named, period_kwh))
        if total_kwh is not None or len(told) < len(period_kwh) or told.keys() != set(periods):
            raise BadUsage(
                f'tariff "{tariff_id}" has the periods {", ".join(periods)}; '
                "give --period-kwh once for each, and no other energy"
            )
        return told
    if total_kwh is None:
        raise BadUsage("no energy was given; give --energy-kwh, or both parts of a time of use")
    if set(periods) == {ON_PEAK, OFF_PEAK}:
        if split is None:
            raise BadUsage(
                f'tariff "{tariff_id}" is by time of use; give --on-peak-kwh and --off-peak-kwh'
            )
        return {ON_PEAK: split[0], OFF_PEAK: split[1]}
    if len(periods) > 1:
        raise BadUsage(
            f'tariff "{tariff_id}" is by time of use; give '
            + " ".join(f"--period-kwh {name}=X" for name in periods)
        )
    return {periods[0] if periods else "all": total_kwh}


def _named(text: str) -> tuple[str, Decimal]:
    name, _, kwh = text.rpartition("=")
    if not name:
        raise typer.BadParameter(
            f"{text!r:.40} names no period; write NAME=X", param_hint="--period-kwh"
        )
    return name, decimal_of(kwh)


def _usage(
    rates: "MonthRates", energy_kwh: dict[str, Decimal], demand_kw: Decimal | None
) -> "Usage":
    """Raises BadUsage where the tariff needs a demand."""
    from streams.tariffs.errors import BadUsage
    from streams.tariffs.usage import Usage, uwh_of

    energy = {period: uwh_of(kwh) for period, kwh in energy_kwh.items()}
    if demand_kw is None and rates.demand:
        raise BadUsage(f'tariff "{rates.tariff.id}" has a demand charge; give --demand-kw')
    demand = {
        (index, period): demand_kw
        for index, charge in enumerate(rates.demand)
        for period in charge.prices.periods
        if demand_kw is not None
    }
    return Usage(sum(energy.values()), energy, demand_kw=demand)


def _split(
    energy_kwh: Decimal | None, on_peak_kwh: Decimal | None, off_peak_kwh: Decimal | None
) -> tuple[Decimal, Decimal] | None:
    """On-peak and off-peak kWh; one of them may be the rest of the whole. None: not told."""
    from streams.tariffs.errors import BadUsage

    if on_peak_kwh is not None and off_peak_kwh is not None:
        if energy_kwh is not None and energy_kwh != on_peak_kwh + off_peak_kwh:
            raise BadUsage(
                f"--on-peak-kwh {on_peak_kwh} and --off-peak-kwh {off_peak_kwh} are not "
                f"--energy-kwh {energy_kwh}; leave it out or correct one"
            )
        return on_peak_kwh, off_peak_kwh
    part_kwh = off_peak_kwh if on_peak_kwh is None else on_peak_kwh
    if energy_kwh is None or part_kwh is None:
        return None
    rest_kwh = energy_kwh - part_kwh
    if rest_kwh < 0:
        option = "--off-peak-kwh" if on_peak_kwh is None else "--on-peak-kwh"
        raise BadUsage(f"{option} is more than --energy-kwh {energy_kwh}; correct one")
    return (rest_kwh, part_kwh) if on_peak_kwh is None else (part_kwh, rest_kwh)


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
