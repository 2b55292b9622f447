"""`meterstream prices`: spot prices of markets."""

from datetime import UTC, date, datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from infra.cli.rows import Json, database, instant_at, tell


class Slot(IntEnum):
    QUARTER = 15
    HALF = 30
    HOUR = 60


class Per(StrEnum):
    KWH = "kwh"
    MWH = "mwh"


Market = Annotated[
    str, typer.Argument(metavar="MARKET", help="As SE3: the `spot` of the tariffs that follow it.")
]
Zone = Annotated[str, typer.Option("--zone", help="Of the market's days, as Europe/Stockholm.")]


def register(app: typer.Typer) -> None:
    prices = typer.Typer(no_args_is_help=True, help="Spot prices of markets.")
    prices.command("import")(import_prices)
    prices.command("show")(show_prices)
    app.add_typer(prices, name="prices")


def import_prices(
    market: Market,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON of whole days.")],
    currency: Annotated[str, typer.Option("--currency", help="As EUR.")],
    zone: Zone,
    minutes: Annotated[
        int, typer.Option("--minutes", help="Of the market's slots: 15, 30 or 60.")
    ] = Slot.QUARTER,
    per: Annotated[Per, typer.Option("--per", help="What a price is for.")] = Per.KWH,
    as_json: Json = False,
) -> None:
    """Import spot prices of whole civil days, or correct them.

    CSV begins with the line starts_at,price; JSON is an array of such objects, or an object of
    days with their prices in order. A day has 92, 96 or 100 quarter hours.
    """
    from sinks.spot_prices import keep_prices
    from streams.tariffs.loading import known_tariffs
    from streams.tariffs.spot import BadPrices
    from streams.tariffs.spot_files import read_prices

    with database() as conn:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadPrices(f"{file} cannot be read: {error}") from error
        found = read_prices(text, minutes=minutes, zone=_zone(zone), per=per.value)
        kept = keep_prices(conn, known_tariffs(), market, currency, minutes, found)
    told: dict[str, object] = {
        "market": market,
        "from": min(found).isoformat(),
        "to": (max(found) + timedelta(minutes=15)).isoformat(),
        "quarter_hours": len(found),
        "new": kept.new,
        "corrected": kept.corrected,
    }
    tell([told], as_json, one=True)


def show_prices(
    market: Market,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="T", help="RFC 3339 or a date. Default: today.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Exclusive. Default: two days later.")
    ] = None,
    zone: Zone = "UTC",
    as_json: Json = False,
) -> None:
    """Show the prices that are known, a row a quarter hour."""
    from sinks.spot_prices import price_rows

    where = _zone(zone)
    today: date = datetime.now(UTC).astimezone(where).date()
    start = instant_at(from_ or today.isoformat(), where, "--from")
    end = start + timedelta(days=2) if to is None else instant_at(to, where, "--to")
    with database() as conn:
        rows: list[dict[str, object]] = [
            {
                "starts_at": row.starts_at.astimezone(where).isoformat(),
                "price": f"{row.price:f}",
                "currency": row.currency,
                "minutes": row.minutes,
                "revision": row.revision,
            }
            for row in price_rows(conn, market, start, end)
        ]
    tell(rows, as_json)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise typer.BadParameter(f"{name!r:.60} is no time zone", param_hint="--zone") from error
