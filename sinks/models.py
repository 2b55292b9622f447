"""Contracts of models that somebody set, beside those that are shipped (`schemas/models.toml`)."""

from typing import Any

import psycopg

from schemas.families import FAMILIES
from schemas.models import CAPABILITIES, Model
from sinks.registry import BadEntry, RegistryError

_LONGEST_S = 30 * 86_400


class BadModel(BadEntry):
    """A contract that no model can have."""


class UnknownModel(RegistryError):
    """Nobody has set a contract for this model."""


def set_model(conn: psycopg.Connection[Any], model: Model) -> None:
    """Set the contract of a model, or of a whole family (`family:shelly`). Raises BadModel."""
    if model.family not in FAMILIES:
        raise BadModel(
            f"no family is named {model.family!r:.40}; give one of {', '.join(FAMILIES)}"
        )
    if not 0 < len(model.name) <= 100 or not model.name.isprintable():
        raise BadModel(f"{model.name!r:.60} is no model's name; give a short printable text")
    if not 0 < model.expected_interval_s <= model.late_after_s < model.offline_after_s:
        raise BadModel(
            f"{model.name}: interval {model.expected_interval_s} s, late {model.late_after_s} s, "
            f"offline {model.offline_after_s} s; each must be longer than the one before"
        )
    for seconds in (model.offline_after_s, model.longest_gap_s or 1):
        if not 0 < seconds <= _LONGEST_S:
            raise BadModel(f"{model.name}: {seconds} s; give 1 to {_LONGEST_S} s")
    strange = set(model.capabilities) - set(CAPABILITIES)
    if strange:
        raise BadModel(
            f"{model.name}: nobody knows the capability {min(strange)!r:.40}; "
            f"there are {', '.join(CAPABILITIES)}"
        )
    conn.execute(
        """
        INSERT INTO model (name, family, expected_interval_s, late_after_s, offline_after_s,
                           longest_gap_s, capabilities)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (name) DO UPDATE
        SET family = excluded.family, expected_interval_s = excluded.expected_interval_s,
            late_after_s = excluded.late_after_s, offline_after_s = excluded.offline_after_s,
            longest_gap_s = excluded.longest_gap_s, capabilities = excluded.capabilities,
            set_at = now()""",
        [
            model.name,
            model.family,
            model.expected_interval_s,
            model.late_after_s,
            model.offline_after_s,
            model.longest_gap_s,
            list(model.capabilities),
        ],
    )


def remove_model(conn: psycopg.Connection[Any], name: str) -> None:
    """What is shipped for it, or its family's, holds again. Raises UnknownModel."""
    if not conn.execute("DELETE FROM model WHERE name = %s", [name.replace("\0", "")]).rowcount:
        raise UnknownModel(f"nobody has set a contract for {name!r:.60}; see the list of models")
