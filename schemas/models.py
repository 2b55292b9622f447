"""Models of devices and what each promises: how often it speaks, and when it is late or offline."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from schemas.units import SECOND_US

CAPABILITIES = (
    "power",
    "import_register",
    "export_register",
    "interval_energy",
    "phases",
    "relay",
    "stored_minutes",
)
_FAMILY = "family:"
_DATA = Path(__file__).with_name("models.toml")


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contract of a model; see `models.toml`. Seconds of stream time."""

    name: str
    family: str
    expected_interval_s: int
    late_after_s: int
    offline_after_s: int
    longest_gap_s: int | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def late_after_us(self) -> int:
        return self.late_after_s * SECOND_US

    @property
    def offline_after_us(self) -> int:
        return self.offline_after_s * SECOND_US


class _File(msgspec.Struct, forbid_unknown_fields=True):
    model: list[Model]


@cache
def shipped_models() -> Mapping[str, Model]:
    """The models of `models.toml` by name; those of whole families are `family:<name>`."""
    found = msgspec.convert(tomllib.loads(_DATA.read_text()), _File).model
    return {model.name: model for model in found}


def contract_of(models: Mapping[str, Model], family: str, name: str | None) -> Model:
    """The contract of the model of this name, or of a device of the family."""
    known = models.get(name) if name is not None else None
    return known or models[_FAMILY + family]
