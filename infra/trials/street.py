"""Homes with contracts whose meters measured a month: their records, and the bills to come."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import psycopg

from infra.bench.log import LogWriter
from infra.trials.month import Arrival, MeteredMonth, metered_month
from schemas.homesync import telemetry_topic
from schemas.topics import RAW, RawHeader
from schemas.units import MW_PER_W, UWH_PER_WH
from schemas.usage import Quality
from sinks.contracts import ledger_of, set_contract, set_home
from sinks.home_meters import set_meter
from sinks.registry import resolve_device
from streams.billing.canonical import canonical, sha256_of
from streams.billing.document import Measured, Payer, bill_document
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month

MONTH = Month(2026, 6)
ZONE = ZoneInfo("Asia/Bangkok")
TERMS = (("mea-1.2", 15), ("mea-1.3.2", 30), ("pea-1.1", 5), ("pea-1.3.2", 15))
"""Tariff and ampere of the homes, in turn: blocks, periods, and a category that use decides."""
NODE, CHANNEL = "meter", "total"


class PureBill(NamedTuple):
    """What a home's register alone makes of its month, without any server."""

    sha256: str
    total: Decimal


@dataclass(frozen=True)
class Street:
    """Homes by their numbers from 0 on; `name` begins their ids."""

    name: str
    month: MeteredMonth

    def home_id(self, home: int) -> str:
        return f"{self.name}{home:03d}"

    def address(self, home: int) -> str:
        return f"homesync:{self.home_id(home)}/{NODE}"

    @property
    def homes(self) -> range:
        return range(self.month.homes)

    @property
    def addresses(self) -> list[str]:
        return [self.address(home) for home in self.homes]

    def bill(self, home: int) -> PureBill:
        """By pure functions alone."""
        catalogue, contract, ledger = known_tariffs(), contract_of(home), self.month.ledger(home)
        bill = rate_contract(catalogue, contract, MONTH, ledger)
        rates = catalogue.rates(bill.tariff_id, MONTH)
        quality = np.full(self.month.cycle.quarters, Quality.MEASURED, np.int8)
        payer = Payer(self.home_id(home), [f"{self.address(home)} {CHANNEL}"], contract)
        document = bill_document(catalogue, payer, rates, bill, Measured(ledger, quality))
        return PureBill(sha256_of(canonical(document)), bill.total)

    def bills(self) -> dict[str, PureBill]:
        return {self.home_id(home): self.bill(home) for home in self.homes}

    def set_up(self, conn: psycopg.Connection[Any]) -> None:
        """The homes with their contracts, and the meters that count for them in the month."""
        cycle = self.month.cycle
        for home in self.homes:
            home_id, address = self.home_id(home), self.address(home)
            set_home(conn, home_id, zone=ZONE.key)
            set_contract(conn, home_id, contract_of(home), known_tariffs())
            conn.execute(
                "WITH d AS (INSERT INTO device (address, family, home_id, claimed_at) "
                "VALUES (%s, 'homesync', %s, now()) RETURNING device_id) "
                "INSERT INTO channel (device_id, name) SELECT device_id, %s FROM d",
                [address, home_id, CHANNEL],
            )
            device, valid = resolve_device(conn, address), (cycle.start, cycle.end)
            set_meter(
                conn, home_id, device, CHANNEL, "grid", valid_from=valid[0], valid_to=valid[1]
            )

    def write(self, out: LogWriter, arrivals: Iterable[Arrival]) -> None:
        """Into the raw log, as the connector does."""
        for arrival in arrivals:
            key = self.address(arrival.home).encode()
            out.produce(RAW.name, key, self._payload(arrival), self._headers(arrival))

    def other_ledgers(self, conn: psycopg.Connection[Any]) -> set[str]:
        """Homes with a quarter hour that is not what the register says."""
        found, cycle = set(), self.month.cycle
        for home in self.homes:
            ledger = ledger_of(conn, self.home_id(home), cycle.start, cycle.end).ledger
            if not np.array_equal(ledger.energy_uwh, self.month.ledger(home).energy_uwh):
                found.add(self.home_id(home))
        return found

    def _payload(self, arrival: Arrival) -> bytes:
        home, number = arrival.home, arrival.number
        values = {
            "power_w": int(self.month.powers_mw[home, number]) / MW_PER_W,
            "import_total_wh": int(self.month.registers_uwh[home, number]) / UWH_PER_WH,
        }
        return msgspec.json.encode(
            {"v": 1, "boot": "trial", "seq": number, "first": 0,
             "ts": self.month.at_s(number), "channels": {CHANNEL: values}}
        )  # fmt: skip

    def _headers(self, arrival: Arrival) -> list[tuple[str, bytes]]:
        return [
            (RawHeader.TOPIC, telemetry_topic(self.home_id(arrival.home), NODE).encode()),
            (RawHeader.RECEIVED_AT, b"%d" % arrival.received_us),
            (RawHeader.SOURCE, b"mqtt"),
            (RawHeader.SHARD, b"0"),
            (RawHeader.PACKET_ID, b"%d" % (arrival.number % 65_535 + 1)),
        ]


def street(name: str, readings: int, homes: int, seed: int) -> Street:
    """Raises ValueError for more readings than a month has seconds."""
    return Street(name, _month(readings, homes, seed))


@cache
def _month(readings: int, homes: int, seed: int) -> MeteredMonth:
    cycle = cycle_for(known_tariffs(), contract_of(0), MONTH)
    return metered_month(cycle, readings, homes, seed)


def contract_of(home: int) -> Contract:
    tariff_id, ampere_a = TERMS[home % len(TERMS)]
    return Contract(tariff_id, date(MONTH.year, MONTH.month, 1), 1, Decimal(ampere_a))
