"""How the decoders' tests speak to them: one instant of receipt, payloads from Python values."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.decoders.topic_table import decode
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.reading import VALUE_NAMES, Reading

RECEIVED_US = 1_763_706_000_000_000  # 2025-11-21T06:20:00Z
NOW_S = 1_763_705_999.25
NOW_US = 1_763_705_999_250_000
SHELLY = Path(__file__).parents[4] / "shared" / "data" / "shelly"


def payload_of(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def decoded(topic: str, value: object, **kwargs: int) -> Decoded:
    return decode(topic, payload_of(value), kwargs.pop("received_us", RECEIVED_US), **kwargs)


def values(reading: Reading) -> dict[str, float]:
    """The values that a reading has."""
    said = {name: getattr(reading.values, name) for name in VALUE_NAMES}
    return {name: value for name, value in said.items() if value is not None}


def readings(topic: str, value: object, **kwargs: int) -> dict[str, dict[str, float]]:
    return {each.channel: values(each) for each in decoded(topic, value, **kwargs).readings}


def refused(topic: str, value: object, reason: Reason, **kwargs: int) -> str:
    """The text with which a message is refused for this reason."""
    with pytest.raises(Undecodable) as caught:
        decoded(topic, value, **kwargs)
    assert caught.value.reason is reason, str(caught.value)
    return str(caught.value)


def instant_us(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1_000_000)
