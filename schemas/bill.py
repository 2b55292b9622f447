"""What is told of a home's bills once they are issued."""

from datetime import datetime

import msgspec

BILL_ISSUED = "energy.bill.issued.v1"
"""`ce_type` of a `BillIssued` on `energy.cost.v1`; the running cost has the topic's name."""


class BillIssued(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version of a home's bill, as on `energy.cost.v1`; it never changes.

    `sha256` is that of the bill's canonical JSON, which the API serves. `difference` is what this
    version changes of the total of the one before, absent in the first. Money and kWh are decimal
    strings. Delivered at least once; `home_id`, `month` and `version` name it.
    """

    home_id: str
    bill_id: int
    month: str
    version: int
    start_at: datetime
    end_at: datetime
    tariff_id: str
    currency: str
    total: str
    energy_kwh: str
    sha256: str
    issued_at: datetime
    difference: str | None = None
