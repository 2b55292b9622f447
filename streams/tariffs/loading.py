"""Tariff documents from files: TOML with exact decimals, merged and validated."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.tariffs.catalogue import Catalogue
from streams.tariffs.errors import BadTariff
from streams.tariffs.model import Document


class TariffSettings(BaseSettings):
    """`tariffs_dir`: a folder of your own tariff documents, TOML or JSON."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    tariffs_dir: Path | None = None


@cache
def known_tariffs() -> Catalogue:
    """The tariffs that come with Meterstream, and those of your own folder.

    Raises BadTariff.
    """
    return catalogue_of(_parsed(name, text) for name, text in _known_files())


def known_tariffs_sha256() -> str:
    """Another one when any of their rates, surcharges or holidays has changed."""
    return hashlib.sha256("\0".join(text for _, text in _known_files()).encode()).hexdigest()


def _known_files() -> list[tuple[str, str]]:
    own = TariffSettings().tariffs_dir
    if own is not None and not own.is_dir():
        raise BadTariff(f"METERSTREAM_TARIFFS_DIR {own} is no folder; make it, or unset it")
    folders: list[Traversable] = [files("streams.tariffs") / "data", *([own] if own else [])]
    return [
        (entry.name, entry.read_text("utf-8"))
        for folder in folders
        for entry in sorted(folder.iterdir(), key=lambda one: one.name)
        if entry.name.endswith((".toml", ".json"))
    ]


def _parsed(name: str, text: str) -> dict[str, Any]:
    return parse_json(name, text) if name.endswith(".json") else parse_toml(name, text)


def catalogue_of(documents: Iterable[Mapping[str, Any]]) -> Catalogue:
    """One catalogue of several documents; no name may be in two.

    Raises BadTariff, which names tariff, field and remedy.
    """
    merged: dict[str, dict[str, Any]] = {}
    for document in documents:
        for section, entries in document.items():
            known = merged.setdefault(section, {})
            twice = sorted(known.keys() & entries.keys())
            if twice:
                raise BadTariff(f"{section}.{twice[0]} is defined twice; rename or remove one")
            known.update(entries)
    try:
        return Catalogue(Document.model_validate(merged))
    except ValidationError as error:
        raise BadTariff(_told(merged, error)) from error


def parse_toml(name: str, text: str) -> dict[str, Any]:
    """Numbers with a point are exact decimals. `name` is the file's, for the error."""
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise BadTariff(f"{name} is no TOML: {error}; correct that line") from error


def parse_json(name: str, text: str) -> dict[str, Any]:
    """The same document as JSON."""
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise BadTariff(f"{name} is no JSON: {error}; correct that place") from error
    if not isinstance(value, dict):
        raise BadTariff(f"{name} is no JSON object; give one with tariffs and rate_tables")
    return value


def _told(document: Mapping[str, Any], error: ValidationError) -> str:
    """The first fault, with the tariffs that it spoils."""
    first = error.errors()[0]
    place = [str(step) for step in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        message = f"{message}, not {first['input']!r:.60}; correct it"
    who = ", ".join(f'"{name}"' for name in _spoiled(document, place))
    where = ".".join(place)
    return f"tariff {who}: {where}: {message}" if who else f"{where or 'document'}: {message}"


def _spoiled(document: Mapping[str, Any], place: list[str]) -> list[str]:
    """The ids of the tariffs that use what lies at `place`."""
    section, name = (*place, "", "")[:2]
    tariffs = document.get("tariffs", {})
    if section == "tariffs":
        return [name]
    if section == "rate_tables":
        return [key for key, tariff in tariffs.items() if tariff.get("rate_table") == name]
    if section == "schedules":
        tables = document.get("rate_tables", {})
        return [
            key
            for key, tariff in tariffs.items()
            if _names(tariff, name) or _names(tables.get(tariff.get("rate_table")), name)
        ]
    return []


def _names(value: Any, schedule: str) -> bool:
    """Whether something within says `schedule = <name>`."""
    if isinstance(value, Mapping):
        return value.get("schedule") == schedule or any(
            _names(inner, schedule) for inner in value.values()
        )
    return isinstance(value, list) and any(_names(inner, schedule) for inner in value)
