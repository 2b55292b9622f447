"""What stands on a bill's page beside the bill. Pure, and without the PDF library that draws it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Front:
    """What a page says beside the bill's document. `version` None is a draft."""

    home_name: str
    tariff_title: str
    sha256: str
    version: int | None = None
    issued_at: datetime | None = None
    adjustment: Mapping[str, Any] | None = None
