"""How devices say that they are set up, as the event `schemas.device.CONFIG_REPORT`."""

from collections.abc import Mapping

from ingest.decoders.device_state import attributes_of
from schemas.device import CONFIG_REPORT, Event

MOST_SETTINGS = 500
_SECRETS = frozenset({"pass", "password", "psk", "secret"})


def config_report(said: Mapping[str, object], measured_us: int) -> Event:
    """Each setting by its path, `outer.inner`. Lists are left out, and so is what is secret."""
    return Event(
        CONFIG_REPORT, measured_us, attributes=attributes_of(_by_path(said), most=MOST_SETTINGS)
    )


def _by_path(said: Mapping[str, object], path: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in said.items():
        if isinstance(value, dict):
            found |= _by_path(value, f"{path}{name}.")
        elif name.lower() not in _SECRETS:
            found[path + name] = value
    return found
