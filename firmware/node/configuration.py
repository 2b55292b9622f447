"""What can be set over MQTT: checked as a whole, versioned, reported back. Pure but for the store.

No secret is in here: Wi-Fi and the broker's account are set on the spot (`account`).
"""

from node.command import Refused
from node.relays import LAST, POWER_ON

MAX_VERSION = 2**31 - 1

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
MAX_METERS = 6
MAX_NAME = 32


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
    if not isinstance(meters, dict) or len(meters) > MAX_METERS:
        raise Refused("meters is no object of at most %d addresses" % MAX_METERS)
    for address, channel in meters.items():
        if not address.isdigit() or not (1 <= int(address) <= 248):
            raise Refused("meters: address %s is not 1 to 248" % address[:40])
        if not isinstance(channel, str) or not 0 < len(channel) <= MAX_NAME:
            raise Refused("meters: the channel of %s has no name" % address)
    if "248" in meters and len(meters) > 1:
        raise Refused("meters: address 248 is for one meter alone on its bus")
    if len(set(meters.values())) != len(meters):
        raise Refused("meters: two of them have the same channel")


class Configuration:
    def __init__(self, store):
        self._store = store
        self.settings = defaults()
        document = store.read() or {}
        self.version = document.get("version", 0)
        try:
            self.settings.update(checked(document.get("settings", {})))
        except Refused:
            self.version = 0  # of another firmware

    def __getitem__(self, name):
        return self.settings[name]

    def apply(self, parameters):
        """Take {"version", "settings": {…}}, or the settings themselves. Raises Refused, OSError.

        The same version again with the same settings changes nothing; a lower one is refused.
        """
        changes = dict(parameters.get("settings") or parameters)
        version = parameters.get("version", self.version + 1)
        if parameters.get("settings") is None:
            changes.pop("version", None)
        if isinstance(version, bool) or not isinstance(version, int):
            raise Refused("version %r is no whole number" % (version,))
        checked(changes)
        wanted = dict(self.settings)
        wanted.update(changes)
        if version == self.version and wanted == self.settings:
            return
        if not self.version < version <= MAX_VERSION:
            raise Refused("version %d is not above %d" % (version, self.version))
        self._store.write({"version": version, "settings": wanted})
        self.version, self.settings = version, wanted
