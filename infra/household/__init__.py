"""Files of household measurements: REFIT and UCI, minute by minute."""

from infra.household.errors import FileRefused
from infra.household.layouts import Layout, layout_named
from infra.household.minutes import FileReport, Minute, read_file, read_minutes

__all__ = [
    "FileRefused",
    "FileReport",
    "Layout",
    "Minute",
    "layout_named",
    "read_file",
    "read_minutes",
]
