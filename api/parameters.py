"""What several routes are asked with: a device, a page of a list."""

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

DeviceText = Annotated[str, Path(max_length=1000)]
"""A name, an address or an id."""


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")
