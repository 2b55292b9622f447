"""Issued bills that Kafka does not have yet: a row each, written with the bill."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import psycopg
from psycopg.rows import dict_row

from schemas.bill import BillIssued


def unannounced_bills(conn: psycopg.Connection[Any], most: int) -> list[BillIssued]:
    """The oldest of them, in the order in which they were issued."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_UNANNOUNCED, [most]).fetchall()
    return [
        BillIssued(**row | {name: row[name].astimezone(UTC) for name in _INSTANTS}) for row in rows
    ]


_INSTANTS = ("start_at", "end_at", "issued_at")
_UNANNOUNCED = """
    SELECT home_id, bill_id, to_char(month, 'YYYY-MM') AS month, version, cycle_start AS start_at,
           cycle_end AS end_at, tariff_id, currency, total::text AS total,
           document::jsonb ->> 'energy_kwh' AS energy_kwh, sha256, issued_at,
           adjustment ->> 'difference' AS difference
    FROM bill_announcement JOIN bill USING (bill_id) ORDER BY bill_id LIMIT %s"""


def mark_announced(conn: psycopg.Connection[Any], bills: Sequence[BillIssued]) -> None:
    """Kafka has these."""
    conn.execute(
        "DELETE FROM bill_announcement WHERE bill_id = ANY (%s)",
        [[bill.bill_id for bill in bills]],
    )
