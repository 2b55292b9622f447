"""Issued bills: rows that never change, one version after another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sinks.bill_drafts import Draft, as_date, as_month
from streams.billing.adjustment import adjustment
from streams.tariffs.errors import TariffError
from streams.tariffs.month import Month
from streams.tariffs.rating import plain


class NoBill(TariffError):
    """A bill, or a version of it, that was not issued."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One version of a bill. `text` is the canonical JSON that `sha256` is of."""

    bill_id: int
    home_id: str
    month: date
    version: int
    tariff_id: str
    currency: str
    total: Decimal
    text: str
    sha256: str
    adjustment: dict[str, Any] | None
    ledger_at: datetime
    issued_at: datetime

    @property
    def document(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.text)
        return read

    def head(self) -> dict[str, object]:
        """What stands above the bill's own document."""
        return {
            "status": "issued",
            "bill": self.bill_id,
            "version": self.version,
            "issued_at": self.issued_at.isoformat(),
            "sha256": self.sha256,
            "adjustment": self.adjustment,
        }

    def summary(self) -> dict[str, object]:
        """One line of a list of bills."""
        return {
            "month": str(as_month(self.month)),
            "tariff": self.tariff_id,
            "currency": self.currency,
            "total": plain(self.total),
            **self.head(),
        }


def draft_head(draft: Draft) -> dict[str, object]:
    """The head of a bill that is not issued; `complete` says whether all its quarter hours are."""
    return {
        "status": "draft",
        "complete": bool(draft.complete.all()),
        "sha256": draft.sha256,
        "ledger_at": draft.ledger_at.isoformat(),
    }


_COLUMNS = """bill_id, home_id, month, version, tariff_id, currency, total, document AS text,
    sha256, adjustment, ledger_at, issued_at"""


def issued_bill(
    conn: psycopg.Connection[Any],
    home_id: str,
    month: Month,
    *,
    version: int | None = None,
    as_of: datetime | None = None,
) -> Issued | None:
    """That version; else the newest, or the newest that was issued until `as_of`."""
    found = _bills(
        conn,
        "home_id = %(home_id)s AND month = %(month)s "
        "AND version = coalesce(%(version)s::int, version) "
        "AND issued_at <= coalesce(%(as_of)s::timestamptz, 'infinity')",
        "ORDER BY version DESC LIMIT 1",
        {"home_id": home_id, "month": as_date(month), "version": version, "as_of": as_of},
    )
    return found[0] if found else None


def bill_of_id(conn: psycopg.Connection[Any], bill_id: int) -> Issued:
    """Raises NoBill."""
    found = _bills(conn, "bill_id = %(bill_id)s", "", {"bill_id": bill_id})
    if not found:
        raise NoBill(f"no bill has the id {bill_id}; `meterstream bill HOME` tells it")
    return found[0]


def versions_of(
    conn: psycopg.Connection[Any], home_id: str, month: Month | None = None
) -> list[Issued]:
    """All versions of a home's bills, the newest month first, by version."""
    return _bills(
        conn,
        "home_id = %(home_id)s AND month = coalesce(%(month)s::date, month)",
        "ORDER BY month DESC, version",
        {"home_id": home_id, "month": None if month is None else as_date(month)},
    )


def _bills(
    conn: psycopg.Connection[Any], where: str, order: str, parameters: Mapping[str, object]
) -> list[Issued]:
    query = f"SELECT {_COLUMNS} FROM bill WHERE {where} {order}"
    with conn.cursor(row_factory=dict_row) as cursor:
        return [Issued(**row) for row in cursor.execute(query.encode(), parameters)]


def issue(conn: psycopg.Connection[Any], home_id: str, draft: Draft) -> Issued | None:
    """Issue what was drafted in this transaction: the first version, or the next one.

    None if the newest version says the same. Raises BadUsage if it cannot be adjusted.
    """
    before = issued_bill(conn, home_id, draft.cycle.month)
    if before is not None and before.sha256 == draft.sha256:
        return None
    changed = None if before is None else adjustment(before.document, draft.document)
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            _ISSUE,
            {
                "home_id": home_id,
                "month": as_date(draft.cycle.month),
                "version": 1 if before is None else before.version + 1,
                "cycle_start": draft.cycle.start,
                "cycle_end": draft.cycle.end,
                "tariff_id": draft.bill.tariff_id,
                "currency": draft.bill.currency,
                "total": draft.bill.total,
                "document": draft.text,
                "sha256": draft.sha256,
                "adjustment": None if changed is None else Jsonb(changed),
                "ledger_at": draft.ledger_at,
            },
        ).fetchone()
    assert row is not None
    return Issued(**row)


_ISSUE = f"""
    WITH issued AS (
        INSERT INTO bill (home_id, month, version, cycle_start, cycle_end, tariff_id, currency,
                          total, document, sha256, adjustment, ledger_at)
        VALUES (%(home_id)s, %(month)s, %(version)s, %(cycle_start)s, %(cycle_end)s, %(tariff_id)s,
                %(currency)s, %(total)s, %(document)s, %(sha256)s, %(adjustment)s, %(ledger_at)s)
        RETURNING *
    ), to_announce AS (INSERT INTO bill_announcement (bill_id) SELECT bill_id FROM issued)
    SELECT {_COLUMNS} FROM issued"""


# ---------------------------------------------------------------- the utility's own bill


def keep_utility_bill(
    conn: psycopg.Connection[Any], home_id: str, month: Month, lines: Mapping[str, Decimal]
) -> None:
    """Store what was typed in (see `streams.billing.utility.check_lines`); again replaces it."""
    conn.execute(
        """
        INSERT INTO utility_bill (home_id, month, lines) VALUES (%s, %s, %s)
        ON CONFLICT (home_id, month) DO UPDATE
        SET lines = excluded.lines, entered_at = now()
        WHERE utility_bill.lines <> excluded.lines""",
        [
            home_id,
            as_date(month),
            Jsonb({name: plain(value) for name, value in lines.items()}),
        ],
    )


def utility_bill(
    conn: psycopg.Connection[Any], home_id: str, month: Month
) -> dict[str, Decimal] | None:
    row = conn.execute(
        "SELECT lines FROM utility_bill WHERE home_id = %s AND month = %s",
        [home_id, as_date(month)],
    ).fetchone()
    return None if row is None else {name: Decimal(value) for name, value in row[0].items()}
