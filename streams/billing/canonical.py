"""The one way a bill is written down, so that equal bills have equal hashes."""

import hashlib
import json
from collections.abc import Mapping

Document = Mapping[str, object]
"""JSON: texts, whole numbers, booleans, null, arrays and objects; money and kWh are texts."""


def canonical(document: Document) -> str:
    """Sorted keys, no spaces, UTF-8. Raises TypeError for a float: it has no exact decimal."""
    _refuse_floats(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError(f"{value} is a float; write a decimal string")
    if isinstance(value, Mapping):
        for inner in value.values():
            _refuse_floats(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_floats(inner)
