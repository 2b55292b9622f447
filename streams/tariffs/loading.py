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


def tariffs_in(path: Path) -> tuple[Catalogue, list[str]]:
    """All tariffs that are known and those of a file, and the ids that the file holds.

    It need not lie in your own folder; if it does, it is not read twice. Raises BadTariff.
    """
    try:
        document = _parsed(path.name, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadTariff(f"{path} cannot be read: {error}; name a TOML or JSON file") from error
    return beside_known(document, without=path), sorted(document.get("tariffs", {}))


def beside_known(document: Mapping[str, Any], without: Path | None = None) -> Catalogue:
    """All tariffs that are known, but for those of a file, and those of the document.

    Raises BadTariff.
    """
    return catalogue_of([*(_parsed(name, text) for name, text in _known_files(without)), document])


def known_tariffs_sha256() -> str:
    """Another one when any of their rates, surcharges or holidays has changed."""
    return hashlib.sha256("\0".join(text for _, text in _known_files()).encode()).hexdigest()


def _known_files(without: Path | None = None) -> list[tuple[str, str]]:
    own = TariffSettings().tariffs_dir
    if own is not None and not own.is_dir():
        raise BadTariff(f"METERSTREAM_TARIFFS_DIR {own} is no folder; make it, or unset it")
    folders: list[Traversable] = [files("streams.tariffs") / "data", *([own] if own else [])]
    return [
        (entry.name, entry.read_text("utf-8"))
        for folder in folders
        for entry in sorted(folder.iterdir(), key=lambda one: one.name)
        if entry.name.endswith((".toml", ".json")) and not _is_same(entry, without)
    ]


def _is_same(entry: Traversable, path: Path | None) -> bool:
    return path is not None and isinstance(entry, Path) and entry.resolve() == path.resolve()


def _parsed(name: str, text: str) -> dict[str, Any]:
    return parse_json(name, text) if name.endswith(".json") else parse_toml(name, text)


def catalogue_of(documents: Iterable[Mapping[str, Any]]) -> Catalogue:
    """One catalogue of several documents; no name may be in two.

    Raises BadTariff, which names tariff, field and remedy.
    """
    whole = merged(documents)
    try:
        return Catalogue(Document.model_validate(whole))
    except ValidationError as error:
        raise BadTariff(_told(whole, error)) from error


def merged(documents: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """One document of several, not yet validated. Raises BadTariff for a name in two."""
    whole: dict[str, dict[str, Any]] = {}
    for document in documents:
        for section, entries in document.items():
            if not isinstance(entries, Mapping):
                raise BadTariff(f"{section} is no table; a document has tables like tariffs")
            known = whole.setdefault(section, {})
            twice = sorted(known.keys() & entries.keys())
            if twice:
                raise BadTariff(f"{section}.{twice[0]} is defined twice; rename or remove one")
            known.update(entries)
    return whole


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


_REMEDIES = {
    "missing": "is missing; give it",
    "extra_forbidden": "is read by nobody; remove it, or look for a misspelt name",
}


def _told(document: Mapping[str, Any], error: ValidationError) -> str:
    """The first fault, with the tariffs that it spoils."""
    first = error.errors()[0]
    place = [str(step) for step in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        wrong = f"{message}, not {first['input']!r:.60}; correct it"
        message = _REMEDIES.get(first["type"], wrong)
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
        return [key for key, tariff in tariffs.items() if _table(tariff) == name]
    if section == "schedules":
        tables = document.get("rate_tables", {})
        return [
            key
            for key, tariff in tariffs.items()
            if _names(tariff, name) or _names(tables.get(_table(tariff)), name)
        ]
    return []


def _table(tariff: object) -> str | None:
    table = tariff.get("rate_table") if isinstance(tariff, Mapping) else None
    return table if isinstance(table, str) else None


def _names(value: Any, schedule: str) -> bool:
    """Whether something within says `schedule = <name>`."""
    if isinstance(value, Mapping):
        return value.get("schedule") == schedule or any(
            _names(inner, schedule) for inner in value.values()
        )
    return isinstance(value, list) and any(_names(inner, schedule) for inner in value)
