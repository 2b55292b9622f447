"""The same month with several numbers of workers and other orders of arrival: the same bills?"""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import psycopg

from infra.bench.log import LogWriter
from infra.local import Stack, StackSettings, start
from infra.local.parts import Progress
from infra.local.programs import OWN, SERVERS
from infra.trials.month import Arrival, MeteredMonth, metered_month
from schemas.homesync import telemetry_topic
from schemas.topics import RAW, RawHeader
from schemas.units import MW_PER_W, SECOND_US, UWH_PER_WH
from schemas.usage import Quality
from sinks.contracts import ledger_of, set_contract, set_home
from sinks.finality import Missing, wait_final
from sinks.home_meters import set_meter
from sinks.registry import resolve_device
from streams.billing.canonical import canonical, sha256_of
from streams.billing.document import Measured, Payer, bill_document
from streams.billing.job import Billing, BillingSettings
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Cycle, Month

MONTH = Month(2026, 6)
ZONE = ZoneInfo("Asia/Bangkok")
TERMS = (("mea-1.2", 15), ("mea-1.3.2", 30), ("pea-1.1", 5), ("pea-1.3.2", 15))
"""Tariff and ampere of the homes, in turn: blocks, periods, and a category that use decides."""
NODE, CHANNEL = "meter", "total"
TICK_S = 300
LAST_TICKS_S = 2 * 3600
FINAL_WITHIN_S = 3 * 3600.0


@dataclass(frozen=True)
class Replay:
    """One run. `sha256` is that of all its bills; `differing` are homes whose bill, or
    any quarter hour of it, is another than by the register alone.
    """

    workers: int
    records: int
    filled_s: float
    streamed_s: float
    sha256: str
    differing: list[str]


@dataclass(frozen=True)
class BillTrial:
    """`sha256` is that of the bills made from the registers alone, without any server."""

    seed: int
    homes: int
    step_s: int
    readings: int
    sha256: str
    replays: list[Replay] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(one.sha256 == self.sha256 and not one.differing for one in self.replays)


def run_trial(
    readings: int, homes: int, workers: Sequence[int], seed: int, progress: Progress
) -> BillTrial:
    """Replay the month once for each number of workers, each on a stack of its own.

    Raises StackError, NotFinal, and ValueError for more readings than a month has seconds.
    """
    month = metered_month(_cycle(), readings, homes, seed)
    wanted = {home_of(home): bill_of(month, home) for home in range(homes)}
    trial = BillTrial(seed, homes, month.step_s, month.readings, _sum_of(wanted))
    for run, count in enumerate(workers, 1):
        told = partial(_tell, progress, f"{count} workers, run {run} of {len(workers)}")
        with _servers(count, told) as stack:
            trial.replays.append(_replay(stack, month, wanted, seed, run, told))
    return trial


def _tell(progress: Progress, where: str, text: str) -> None:
    progress(f"{where}: {text}")


def home_of(home: int) -> str:
    return f"home{home:03d}"


def address_of(home: int) -> str:
    return f"homesync:{home_of(home)}/{NODE}"


def contract_of(home: int) -> Contract:
    tariff_id, ampere_a = TERMS[home % len(TERMS)]
    return Contract(tariff_id, date(MONTH.year, MONTH.month, 1), 1, Decimal(ampere_a))


def bill_of(month: MeteredMonth, home: int) -> str:
    """The hash of the bill that the home's register makes, by pure functions alone."""
    catalogue, contract, ledger = known_tariffs(), contract_of(home), month.ledger(home)
    bill = rate_contract(catalogue, contract, MONTH, ledger)
    rates = catalogue.rates(bill.tariff_id, MONTH)
    quality = np.full(month.cycle.quarters, Quality.MEASURED, np.int8)
    payer = Payer(home_of(home), [f"{address_of(home)} {CHANNEL}"], contract)
    document = bill_document(catalogue, payer, rates, bill, Measured(ledger, quality))
    return sha256_of(canonical(document))


def _cycle() -> Cycle:
    return cycle_for(known_tariffs(), contract_of(0), MONTH)


@contextmanager
def _servers(workers: int, progress: Progress) -> Iterator[Stack]:
    """Servers with topics and tables; workers and roll-up are known, and do not run yet."""
    with tempfile.TemporaryDirectory(prefix="meterstream-trial-") as folder:
        settings = StackSettings.free(Path(folder) / "stack").model_copy(
            update={"workers": workers}
        )
        stream = [one for one in OWN if one.name in ("worker", "rollup")]
        stack = Stack(settings, [*SERVERS, *stream])
        try:
            start(settings, SERVERS, progress).prepare(progress)
            yield stack
        finally:
            stack.wipe(progress)


def _replay(
    stack: Stack,
    month: MeteredMonth,
    wanted: dict[str, str],
    seed: int,
    run: int,
    progress: Progress,
) -> Replay:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        _set_up(conn, month)
        begun = time.monotonic()
        records = fill(stack.kafka_bootstrap, month, seed, run, progress)
        filled_s, begun = time.monotonic() - begun, time.monotonic()
        stack.up(progress)

        def missing(what: Missing) -> None:
            progress(f"streaming: {what}")

        addresses = [address_of(home) for home in range(month.homes)]
        wait_final(
            stack.database_url,
            stack.kafka_bootstrap,
            addresses,
            timeout_s=FINAL_WITHIN_S,
            progress=missing,
        )
        streamed_s = time.monotonic() - begun
        progress("billing")
        issued = _issued(conn)
        differing = {
            home for home in wanted.keys() | issued if wanted.get(home) != issued.get(home)
        }
        differing |= _other_ledgers(conn, month)
    return Replay(
        stack.settings.workers,
        records,
        round(filled_s, 1),
        round(streamed_s, 1),
        _sum_of(issued),
        sorted(differing),
    )


def _set_up(conn: psycopg.Connection[Any], month: MeteredMonth) -> None:
    """Homes with their contracts, and the meters that count for them."""
    for home in range(month.homes):
        home_id = home_of(home)
        set_home(conn, home_id, zone=ZONE.key)
        set_contract(conn, home_id, contract_of(home), known_tariffs())
        conn.execute(
            "WITH d AS (INSERT INTO device (address, family, home_id, claimed_at) "
            "VALUES (%s, 'homesync', %s, now()) RETURNING device_id) "
            "INSERT INTO channel (device_id, name) SELECT device_id, %s FROM d",
            [address_of(home), home_id, CHANNEL],
        )
        device, cycle = resolve_device(conn, address_of(home)), month.cycle
        set_meter(
            conn, home_id, device, CHANNEL, "grid", valid_from=cycle.start, valid_to=cycle.end
        )


def fill(bootstrap: str, month: MeteredMonth, seed: int, run: int, progress: Progress) -> int:
    """Write the month into the raw log as it arrives, with ticks; returns how many records."""
    out, records, tick_s = LogWriter(bootstrap), 0, month.at_s(0)
    for arrival in month.arrivals(seed, run):
        while tick_s * SECOND_US < arrival.received_us:
            out.tick(tick_s)
            tick_s += TICK_S
        out.produce(RAW.name, address_of(arrival.home).encode(), *_record(month, arrival))
        records += 1
        if records % 100_000 == 0:
            progress(f"filling the log: {records:,} records")
    for at_s in range(tick_s, tick_s + LAST_TICKS_S, TICK_S):
        out.tick(at_s)
    out.flush()
    return records


def _record(month: MeteredMonth, arrival: Arrival) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Payload and headers, as the connector writes them."""
    home, number = arrival.home, arrival.number
    payload = {
        "v": 1, "boot": "trial", "seq": number, "first": 0, "ts": month.at_s(number),
        "channels": {
            CHANNEL: {
                "power_w": int(month.powers_mw[home, number]) / MW_PER_W,
                "import_total_wh": int(month.registers_uwh[home, number]) / UWH_PER_WH,
            }
        },
    }  # fmt: skip
    headers = [
        (RawHeader.TOPIC, telemetry_topic(home_of(home), NODE).encode()),
        (RawHeader.RECEIVED_AT, b"%d" % arrival.received_us),
        (RawHeader.SOURCE, b"mqtt"),
        (RawHeader.SHARD, b"0"),
        (RawHeader.PACKET_ID, b"%d" % (number % 65_535 + 1)),
    ]
    return msgspec.json.encode(payload), headers


def _issued(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Issue what is due: the hash of each home's bill."""
    settings = BillingSettings.model_validate({"billing_quiet_s": 0})
    issued = Billing(known_tariffs(), "trial", settings).work_off(conn, datetime.now(UTC))
    return {bill.home_id: bill.sha256 for bill in issued}


def _other_ledgers(conn: psycopg.Connection[Any], month: MeteredMonth) -> set[str]:
    """Homes with a quarter hour that is not what the register says."""
    found, cycle = set(), month.cycle
    for home in range(month.homes):
        ledger = ledger_of(conn, home_of(home), cycle.start, cycle.end).ledger
        if not np.array_equal(ledger.energy_uwh, month.ledger(home).energy_uwh):
            found.add(home_of(home))
    return found


def _sum_of(bills: dict[str, str]) -> str:
    text = "".join(f"{home} {sha256}\n" for home, sha256 in sorted(bills.items()))
    return hashlib.sha256(text.encode()).hexdigest()
