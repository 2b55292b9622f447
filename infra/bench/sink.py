"""How fast the database takes readings: straight COPY, and the staged merge, as its own limit."""

import os
import time

import psycopg
from msgspec.structs import astuple

from infra.bench.stream import Rate
from infra.local import Stack
from schemas.reading import Values
from sinks.copy_block import BlockBuilder, ReadingRow
from sinks.readings_hypertable import copy_new, merge_late
from streams.merge import merge

BATCH = 20_000
_FIRST_US = 1_600_000_000_000_000


def measure(stack: Stack, readings: int) -> list[Rate]:
    """Store readings of 1,000 channels that nobody else uses, and take them away again."""
    found = []
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        for name, store in (("COPY", copy_new), ("staged merge", merge_late)):
            builder, seconds, cpu = BlockBuilder(), 0.0, 0.0
            for batch in range(readings // BATCH):
                rows = _rows(batch)
                begun, begun_cpu = time.monotonic(), time.process_time()
                with conn.transaction():
                    store(conn, builder, rows, merge)
                seconds += time.monotonic() - begun
                cpu += time.process_time() - begun_cpu
            stored = readings // BATCH * BATCH
            found.append(
                Rate(f"{name}, {BATCH:,} a transaction", stored, seconds, cpu / stored * 1e6)
            )
            conn.execute("DELETE FROM readings WHERE channel_id >= 1000000000")
    return found


def _rows(batch: int) -> list[ReadingRow]:
    rows: list[ReadingRow] = []
    for i in range(BATCH):
        n = batch * BATCH + i
        at_us = _FIRST_US + n // 1000 * 5_000_000
        values = Values(
            power_w=100.0 + n % 977, voltage_v=229.0 + n % 7, current_a=1.0 + n % 13,
            frequency_hz=50.0, power_factor=0.93, apparent_va=110.0 + n % 977,
            reactive_var=20.0 + n % 11, import_total_wh=1000.0 + n, export_total_wh=0.0,
            temperature_c=30.0 + n % 9, thd_voltage_percent=2.5, thd_current_percent=3.5,
        )  # fmt: skip
        head = (1_000_000_000 + n % 1000, at_us, at_us + 50_000, n, n, 0, 0)
        rows.append((*head, astuple(values)))
    return rows


def machine() -> str:
    """The processor and its count, for the head of a table of figures."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if "model name" in line), "?")
    return f"{os.cpu_count()} × {model}"
