"""Rows of values, written by the names of those that are there."""

from msgspec.structs import astuple

from schemas.reading import ValueRow, Values


def value_row(*said: float | None, **named: float | None) -> ValueRow:
    return astuple(Values(*said, **named))
