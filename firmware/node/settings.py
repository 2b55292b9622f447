"""The settings that there are, and what each may be. Read when they are loaded or changed. Pure."""

from micropython import const
from node.command import Refused
from node.relays import LAST, POWER_ON

_MAX_VERSION = const(2**31 - 1)

_WHOLE = {  # least, most, default
    "interval_s": (1, 3600, 10),
    "batch": (1, 30, 1),  # readings written to the flash at once
    "status_s": (10, 86_400, 300),
    "sleep_s": (0, 86_400, 0),  # deep sleep between readings; 0: stay awake
    "outbox_kib": (16, 1024, 256),
    "clamp_ratio": (1, 100_000, 2000),
    "clamp_burden_mohm": (100, 1_000_000, 33_000),
    "clamp_gain_permille": (500, 2000, 1000),
    "clamp_voltage_dv": (800, 2600, 2300),
    "clamp_power_factor_c": (1, 100, 100),
}
_DEFAULT_METERS = {"248": "total"}
_MAX_METERS = const(6)
_MAX_NAME = const(32)


def defaults():
    settings = {name: limits[2] for name, limits in _WHOLE.items()}
    settings["meters"] = dict(_DEFAULT_METERS)
    settings["power_on"] = LAST
    settings["ntp_host"] = "pool.ntp.org"
    return settings


def checked(changes):
    """The settings to change. Raises Refused: then none of them is changed."""
    for name, value in changes.items():
        if name in _WHOLE:
            low, high, _ = _WHOLE[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise Refused("%s %r is no whole number from %d to %d" % (name, value, low, high))
        elif name == "meters":
            _refuse_meters(value)
        elif name == "power_on":
            if value not in POWER_ON:
                raise Refused("power_on %r is none of %s" % (value, ", ".join(POWER_ON)))
        elif name == "ntp_host":
            if not isinstance(value, str) or len(value) > 100:
                raise Refused("ntp_host is no name")
        else:
            raise Refused("no setting is named %s" % name[:40])
    return changes


def _refuse_meters(meters):
    if not isinstance(meters, dict) or len(meters) > _MAX_METERS:
        raise Refused("meters is no object of at most %d addresses" % _MAX_METERS)
    for address, channel in meters.items():
        if not address.isdigit() or not (1 <= int(address) <= 248):
            raise Refused("meters: address %s is not 1 to 248" % address[:40])
        if not isinstance(channel, str) or not 0 < len(channel) <= _MAX_NAME:
            raise Refused("meters: the channel of %s has no name" % address)
    if "248" in meters and len(meters) > 1:
        raise Refused("meters: address 248 is for one meter alone on its bus")
    if len(set(meters.values())) != len(meters):
        raise Refused("meters: two of them have the same channel")


def loaded(document):
    """(version, settings) of what was stored; the defaults where another firmware stored it."""
    settings = defaults()
    try:
        settings.update(checked(document.get("settings", {})))
    except Refused:
        return 0, settings
    return document.get("version", 0), settings


def changed(version, settings, parameters):
    """(version, settings) after {"version", "settings": {…}}, or the settings themselves.

    None where the same version comes again with the same settings. Raises Refused, also for a
    lower version.
    """
    changes = dict(parameters.get("settings") or parameters)
    new = parameters.get("version", version + 1)
    if parameters.get("settings") is None:
        changes.pop("version", None)
    if isinstance(new, bool) or not isinstance(new, int):
        raise Refused("version %r is no whole number" % (new,))
    wanted = dict(settings)
    wanted.update(checked(changes))
    if new == version and wanted == settings:
        return None
    if not version < new <= _MAX_VERSION:
        raise Refused("version %d is not above %d" % (new, version))
    return new, wanted
