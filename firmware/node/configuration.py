"""What can be set over MQTT: checked as a whole, versioned, reported back. Pure but for the store.

No secret is in here: Wi-Fi and the broker's account are set on the spot (`account`).
"""

from node.seldom import seldom


class Configuration:
    def __init__(self, store):
        self._store = store
        self.version, self.settings = seldom("settings").loaded(store.read() or {})

    def __getitem__(self, name):
        return self.settings[name]

    def apply(self, parameters):
        """Take them as `settings.changed` does. Raises Refused, OSError."""
        after = seldom("settings").changed(self.version, self.settings, parameters)
        if after is not None:
            self._store.write({"version": after[0], "settings": after[1]})
            self.version, self.settings = after
