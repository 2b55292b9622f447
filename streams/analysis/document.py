"""Results as JSON shows them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal

from streams.tariffs.month import Month
from streams.tariffs.rating import shortest


def document(value: object) -> object:
    """Dataclasses and mappings as objects, decimals as plain strings, instants as RFC 3339, UTC."""
    if isinstance(value, Decimal):
        return shortest(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Month):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name.rstrip("_"): document(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): document(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [document(one) for one in value]
    return value
