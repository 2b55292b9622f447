"""The peers' job as a plain Faust app: stock transport, one reading at a time.

One-minute windows of power a device (n, least, mean, greatest, trapezoid of energy) into the table
of the other peers' jobs. As its documentation shows it: a Record as value type, an agent with
`async for`, and the open window of each device in a Table, whose changelog is a topic
(`--state table`); or in a dict, which a crash loses, but which spares a message to Kafka a reading
(`--state memory`). Finished windows are written by psycopg, a thousand at once. Faust's own
windowed tables do more work a reading.

Prints one JSON line when `--limit` readings have been processed, and goes on until it is ended.
"""

import argparse
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import faust
import psycopg

from infra.bench.log import PEER_PARTITIONS

WINDOW_S = 60
ROWS_AT_ONCE = 1000
_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
  device_id text NOT NULL, window_start timestamptz NOT NULL,
  n bigint NOT NULL, p_min double precision, p_avg double precision, p_max double precision,
  energy_wh double precision, PRIMARY KEY (device_id, window_start))
"""
_UPSERT = """
INSERT INTO {table} (device_id, window_start, n, p_min, p_avg, p_max, energy_wh)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (device_id, window_start) DO UPDATE SET
  n = EXCLUDED.n, p_min = EXCLUDED.p_min, p_avg = EXCLUDED.p_avg, p_max = EXCLUDED.p_max,
  energy_wh = EXCLUDED.energy_wh
"""


class Reading(faust.Record, coerce=True):  # type: ignore[misc,call-arg]
    device_id: str
    ts: datetime
    seq: int
    power_w: float


Window = tuple[float, int, float, float, float, float, float, float]
"""start, n, least, sum, greatest, energy_wh, last instant, last power."""


def folded(window: Window | None, start_s: float, at_s: float, power_w: float) -> Window:
    """The window with one more reading; a new one where there is none or it is of before."""
    if window is None or start_s > window[0]:
        return (start_s, 1, power_w, power_w, power_w, 0.0, at_s, power_w)
    start_s, n, least, total, greatest, energy_wh, last_s, last_w = window
    if at_s > last_s:
        energy_wh += (power_w + last_w) / 2 * (at_s - last_s) / 3600
        last_s, last_w = at_s, power_w
    least, greatest = min(least, power_w), max(greatest, power_w)
    return (start_s, n + 1, least, total + power_w, greatest, energy_wh, last_s, last_w)


def row(device_id: str, window: Window) -> tuple[object, ...]:
    start_s, n, least, total, greatest, energy_wh, *_ = window
    start_at = datetime.fromtimestamp(start_s, UTC)
    return (device_id, start_at, n, least, total / n, greatest, energy_wh)


def create_app(options: argparse.Namespace) -> faust.App:
    app = faust.App(
        options.group,
        broker=f"kafka://{options.brokers}",
        store="memory://",
        topic_partitions=PEER_PARTITIONS,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        datadir=options.folder,
    )
    readings = app.topic(options.topic, value_type=Reading, value_serializer="json")
    windows: Any = {}
    if options.state == "table":
        windows = app.Table("windows", partitions=PEER_PARTITIONS)
    conn = psycopg.connect(options.pg, autocommit=True)
    conn.execute(_TABLE.format(table=options.table))
    upsert = _UPSERT.format(table=options.table)

    @app.agent(readings)  # type: ignore[untyped-decorator]
    async def aggregate(stream: Any) -> AsyncIterator[None]:
        done, rows, count, begun_s = 0, [], 0, 0.0
        async for reading in stream:
            begun_s = begun_s or time.perf_counter()
            if reading.device_id and -1e7 < reading.power_w < 1e7:
                at_s = reading.ts.timestamp()
                start_s = at_s - at_s % WINDOW_S
                window = windows.get(reading.device_id)
                if window is not None and start_s > window[0]:
                    rows.append(row(reading.device_id, window))
                windows[reading.device_id] = folded(window, start_s, at_s, reading.power_w)
            if len(rows) >= ROWS_AT_ONCE:
                with conn.transaction(), conn.cursor() as cursor:
                    cursor.executemany(upsert, rows)
                count += len(rows)
                rows.clear()
            done += 1
            if done == options.limit:
                seconds = time.perf_counter() - begun_s
                told = {"messages": done, "seconds": seconds, "rows_written": count + len(rows)}
                print(json.dumps(told), flush=True)
            yield

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("brokers", "topic", "pg", "table", "group", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--state", choices=("table", "memory"), default="table")
    app = create_app(parser.parse_args())
    faust.Worker(app, loglevel="warning", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
