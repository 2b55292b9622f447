"""WattAway, the Thai monitor, Tasmota, and what is behind Zigbee2MQTT."""

import msgspec

from infra.switches.device import Publish, Switch, wanted


class WattAway(Switch):
    """`devices/<id>/commands`, acknowledged on `devices/<id>/status` with the id that came."""

    family = "wattaway"
    first_relay = 1

    @property
    def address(self) -> str:
        return f"wattaway:{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"devices/{self.name}/commands",)

    @property
    def will(self) -> Publish:
        return self._status(b"offline")

    def channel(self, relay: int) -> str | None:
        return None

    def boot(self, now_us: int) -> list[Publish]:
        return [self._status(b"online"), *self.say_state(0, "", now_us)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        return [self._status(msgspec.json.encode({"relay": self.on[0]}))]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        said = _object(payload)
        command_id = said.get("command_id")
        relay = self.relay_of(str(said.get("channel")))
        on = None if relay is None else wanted(str(said.get("state")), self.on[relay])
        if said.get("command") != "set_relay_state" or relay is None or on is None:
            refused = {"command_id": command_id, "status": "error", "message": "unknown command"}
            return [self._status(msgspec.json.encode(refused))]
        self.switch(relay, on, "command", now_us, str(command_id))
        done = {"command_id": command_id, "status": "success", "relay": on}
        return [self._status(msgspec.json.encode(done))]

    def _status(self, payload: bytes) -> Publish:
        return Publish(f"devices/{self.name}/status", payload)


class ThaiMonitor(Switch):
    """`cmd/<device>/on|off`, confirmed by nothing but its state on `device/<device>/status`."""

    family = "home"

    def __init__(self, name: str, home: str) -> None:
        super().__init__(name)
        self.home = home

    @property
    def address(self) -> str:
        return f"home:{self.home}/{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"cmd/{self.name}/#",)

    @property
    def will(self) -> Publish:
        return self._status({"status": "offline"})

    def channel(self, relay: int) -> str | None:
        return None

    def boot(self, now_us: int) -> list[Publish]:
        state = "closed" if self.on[0] else "open"
        return [self._status({"status": "online", "relay": state})]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        return [self._status({"relay": "closed" if self.on[0] else "open"})]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        on = {"on": True, "off": False}.get(topic.rpartition("/")[2])
        if on is None:
            return []
        self.switch(0, on, "command", now_us, str(_object(payload).get("command_id")))
        return self.say_state(0, "command", now_us)

    def _status(self, said: dict[str, object]) -> Publish:
        own = {"home_id": self.home, "device_id": self.name}
        return Publish(f"device/{self.name}/status", msgspec.json.encode(own | said))


class Tasmota(Switch):
    """`cmnd/<topic>/POWER<n>`, answered on `stat/<topic>/RESULT` and `…/POWER<n>`."""

    family = "tasmota"
    first_relay = 1

    @property
    def address(self) -> str:
        return f"tasmota:{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"cmnd/{self.name}/#",)

    @property
    def will(self) -> Publish:
        return Publish(f"tele/{self.name}/LWT", b"Offline", retain=True)

    def boot(self, now_us: int) -> list[Publish]:
        online = Publish(f"tele/{self.name}/LWT", b"Online", retain=True)
        states = [self.say_state(relay, "", now_us) for relay in range(len(self.on))]
        return [online, *(one for state in states for one in state)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        name, word = f"POWER{relay + 1}", "ON" if self.on[relay] else "OFF"
        result = msgspec.json.encode({name: word})
        stat = f"stat/{self.name}"
        return [Publish(f"{stat}/RESULT", result), Publish(f"{stat}/{name}", word.encode())]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        command = topic.rpartition("/")[2].upper()
        relay = self.relay_of(command.removeprefix("POWER") or "1")
        word = payload.decode("ascii", "replace")
        on = None if relay is None else wanted(word, self.on[relay])
        if not command.startswith("POWER") or relay is None or on is None:
            return []
        self.switch(relay, on, "command", now_us, word)
        return self.say_state(relay, "command", now_us)


class Zigbee(Switch):
    """A plug behind Zigbee2MQTT: `zigbee2mqtt/<name>/set`, its state on `zigbee2mqtt/<name>`."""

    family = "z2m"

    @property
    def address(self) -> str:
        return f"z2m:{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"zigbee2mqtt/{self.name}/set",)

    @property
    def will(self) -> Publish:
        return self._availability("offline")

    def boot(self, now_us: int) -> list[Publish]:
        return [self._availability("online"), *self.say_state(0, "", now_us)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        said = {"state": "ON" if self.on[0] else "OFF", "linkquality": 120}
        return [Publish(f"zigbee2mqtt/{self.name}", msgspec.json.encode(said))]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        word = str(_object(payload).get("state"))
        on = wanted(word, self.on[0])
        if on is None:
            return []
        self.switch(0, on, "command", now_us, word)
        return self.say_state(0, "command", now_us)

    def _availability(self, state: str) -> Publish:
        payload = msgspec.json.encode({"state": state})
        return Publish(f"zigbee2mqtt/{self.name}/availability", payload, retain=True)


def _object(payload: bytes) -> dict[str, object]:
    """The object that a payload holds; empty for anything else."""
    try:
        return msgspec.json.decode(payload, type=dict[str, object])
    except msgspec.DecodeError:
        return {}
