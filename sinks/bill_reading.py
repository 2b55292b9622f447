"""A bill as people ask for it: by home or device, issued if it was, else drafted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import scalar_row

from sinks.bill_drafts import Draft, draft, draft_of_device
from sinks.bills import Issued, NoBill, draft_head, issued_bill
from sinks.contracts import Home, UnknownHome, find_home
from sinks.registry import DeviceRow, RegistryError, resolve_device
from streams.billing.front import Front
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.errors import BadUsage
from streams.tariffs.month import Month


@dataclass(frozen=True, slots=True)
class Asked:
    """A bill's document under its head; `version` None is a draft, `home_name` for its page."""

    document: dict[str, Any]
    sha256: str
    head: dict[str, object]
    home_name: str
    issued: Issued | None = None

    def told(self) -> dict[str, object]:
        """As JSON: the document, and what is no part of it under `issue`."""
        return {**self.document, "issue": self.head}

    def front(self, catalogue: Catalogue, thai: bool) -> Front:
        tariff = catalogue.tariff(self.document["tariff"])
        title = (tariff.title_th if thai else None) or tariff.title
        if self.issued is None:
            return Front(self.home_name, title, self.sha256)
        return Front(
            self.home_name,
            title,
            self.sha256,
            self.issued.version,
            self.issued.issued_at,
            self.issued.adjustment,
        )


def home_bill(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    home_id: str,
    month: Month,
    *,
    tariff_id: str | None = None,
    version: int | None = None,
    as_of: datetime | None = None,
) -> Asked:
    """The bill of a home: a draft by another tariff, the version asked for, or what there is.

    Raises NoBill for a version that was not issued; else as `draft`.
    """
    home = find_home(conn, home_id)
    name = home.name or home.home_id
    if tariff_id is None:
        found = issued_bill(conn, home_id, month, version=version, as_of=as_of)
        if found is not None:
            return Asked(found.document, found.sha256, found.head(), name, found)
        if version is not None or as_of is not None:
            raise NoBill(
                f"home {home_id!r} had no bill of {month} "
                + (f"with version {version}" if version else f"on {as_of:%Y-%m-%d %H:%M %Z}")
                + "; see the list of its bills"
            )
    return _drafted(draft(conn, catalogue, home_id, month, tariff_id), name)


def device_bill(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    device: DeviceRow,
    month: Month,
    tariff_id: str,
) -> Asked:
    made = draft_of_device(conn, catalogue, device, month, tariff_id)
    return _drafted(made, device.name or device.address)


def _drafted(made: Draft, name: str) -> Asked:
    return Asked(made.document, made.sha256, draft_head(made), name)


def home_or_device(conn: psycopg.Connection[Any], text: str) -> Home | DeviceRow:
    """The home of this id; the home whose grid meter a device is; else the device.

    Raises RegistryError for neither, and BadUsage for a meter of several homes.
    """
    try:
        return find_home(conn, text)
    except UnknownHome as unknown:
        try:
            device = resolve_device(conn, text)
        except RegistryError as error:
            raise type(error)(f"{error}; nor is a home of this id set up") from unknown
    with conn.cursor(row_factory=scalar_row) as cursor:
        homes: list[str] = cursor.execute(
            "SELECT DISTINCT home_id FROM home_meter JOIN channel USING (channel_id) "
            "WHERE device_id = %s AND role = 'grid' ORDER BY 1",
            [device.device_id],
        ).fetchall()
    if len(homes) > 1:
        raise BadUsage(f"{text!r} was the meter of {', '.join(homes)}; give the home")
    return find_home(conn, homes[0]) if homes else device
