"""A bill's lines as CSV, for spreadsheets."""

import csv
import io
from collections.abc import Mapping
from typing import Any

_COLUMNS = ("month", "kind", "name", "above", "quantity", "unit", "price", "amount", "currency")


def bill_csv(document: Mapping[str, Any]) -> str:
    """A row a line; the blocks of a line follow it as kind `part`; the last row is the total."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", extrasaction="ignore")
    writer.writeheader()
    common = {"month": document["month"], "currency": document["currency"]}
    for line in document["lines"]:
        writer.writerow(common | line)
        for part in line.get("parts", ()):
            named = {"kind": "part", "name": line["name"], "unit": line["unit"]}
            writer.writerow(common | named | part)
    writer.writerow(common | {"kind": "total", "amount": document["total"]})
    return text.getvalue()
