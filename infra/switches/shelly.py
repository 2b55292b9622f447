"""Shelly's relays, Gen2 and Gen1: they run whatever comes, as often as it comes."""

import msgspec

from infra.switches.device import TIMER, WALL, Publish, Switch, wanted
from schemas.units import SECOND_US

_SOURCES = {WALL: "input", TIMER: "timer"}


class Request(msgspec.Struct):
    id: int | str
    method: str
    src: str = ""
    params: dict[str, object] = msgspec.field(default_factory=dict)


class ShellyGen2(Switch):
    """A Pro 2 or 4: RPC on `<prefix>/rpc`, bare words on `<prefix>/command/switch:N`."""

    family = "shelly"

    def __init__(self, name: str, relays: int = 2) -> None:
        super().__init__(name, relays)
        self._flips: dict[int, int] = {}  # relay to when it flips back, µs
        self._sources = ["init"] * relays

    @property
    def address(self) -> str:
        return f"shelly:{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"{self.name}/rpc", f"{self.name}/command/#")

    @property
    def will(self) -> Publish:
        return Publish(f"{self.name}/online", b"false", retain=True)

    def channel(self, relay: int) -> str | None:
        return f"switch:{relay}"

    def boot(self, now_us: int) -> list[Publish]:
        states: dict[str, dict[str, object]] = {
            f"switch:{relay}": {"id": relay, "output": on, "source": self._sources[relay]}
            for relay, on in enumerate(self.on)
        }
        online = Publish(f"{self.name}/online", b"true", retain=True)
        return [online, self._notify("NotifyFullStatus", states, now_us)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        if by:
            self._sources[relay] = _SOURCES.get(by, "MQTT")
        source = self._sources[relay]
        status: dict[str, object] = {"id": relay, "output": self.on[relay], "source": source}
        return [self._notify("NotifyStatus", {f"switch:{relay}": status}, now_us)]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        if topic != f"{self.name}/rpc":
            relay = self.relay_of(topic.rpartition("switch:")[2])
            word = payload.decode("ascii", "replace")
            on = None if relay is None else wanted(word, self.on[relay])
            if relay is None or on is None:
                return []
            self.switch(relay, on, "command", now_us, word)
            return self.say_state(relay, "command", now_us)
        try:
            request = msgspec.json.decode(payload, type=Request)
        except msgspec.DecodeError:
            return []
        return self._call(request, now_us)

    def tick(self, now_us: int) -> list[Publish]:
        said: list[Publish] = []
        for relay in [relay for relay, at_us in self._flips.items() if at_us <= now_us]:
            del self._flips[relay]
            self.switch(relay, not self.on[relay], TIMER, now_us)
            said += self.say_state(relay, TIMER, now_us)
        return said

    def _call(self, request: Request, now_us: int) -> list[Publish]:
        params = request.params
        if request.method in ("Shelly.Reboot", "Switch.ResetCounters", "Sys.SetConfig"):
            return [self._reply(request, {"result": {"restart_required": False}})]
        if request.method not in ("Switch.Set", "Switch.Toggle"):
            error = {"code": 404, "message": f"No handler for {request.method}"}
            return [self._reply(request, {"error": error})]
        relay = self.relay_of(str(params.get("id")))
        on = params.get("on")
        if relay is None or (request.method == "Switch.Set" and not isinstance(on, bool)):
            error = {"code": -105, "message": f"Argument 'id', value {params.get('id')} not found!"}
            return [self._reply(request, {"error": error})]
        was_on = self.on[relay]
        new = bool(on) if request.method == "Switch.Set" else not was_on
        self._flips.pop(relay, None)
        after_s = params.get("toggle_after")
        if isinstance(after_s, int | float):
            self._flips[relay] = now_us + int(after_s * SECOND_US)
        self.switch(relay, new, "command", now_us, str(request.id))
        changed = self.say_state(relay, "command", now_us) if new is not was_on else []
        return [*changed, self._reply(request, {"result": {"was_on": was_on}})]

    def _reply(self, request: Request, said: dict[str, object]) -> Publish:
        frame = {"id": request.id, "src": self.name, "dst": request.src, **said}
        return Publish(f"{request.src}/rpc", msgspec.json.encode(frame))

    def _notify(self, method: str, params: dict[str, dict[str, object]], now_us: int) -> Publish:
        frame = {
            "src": self.name,
            "dst": f"{self.name}/events",
            "method": method,
            "params": {**params, "ts": now_us / SECOND_US},
        }
        return Publish(f"{self.name}/events/rpc", msgspec.json.encode(frame))


class ShellyGen1(Switch):
    """A 1 or 2.5: bare words on `shellies/<id>/relay/<n>/command`, QoS 0 in real life."""

    family = "shelly1"

    @property
    def address(self) -> str:
        return f"shelly1:{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"shellies/{self.name}/relay/+/command", f"shellies/{self.name}/command")

    @property
    def will(self) -> Publish:
        return Publish(f"shellies/{self.name}/online", b"false", retain=True)

    def boot(self, now_us: int) -> list[Publish]:
        online = Publish(f"shellies/{self.name}/online", b"true", retain=True)
        states = [self.say_state(relay, "", now_us) for relay in range(len(self.on))]
        return [online, *(one for state in states for one in state)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        word = b"on" if self.on[relay] else b"off"
        return [Publish(f"shellies/{self.name}/relay/{relay}", word)]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        *_, number, last = topic.split("/")
        relay = self.relay_of(number) if last == "command" else None
        word = payload.decode("ascii", "replace")
        on = None if relay is None else wanted(word, self.on[relay])
        if relay is None or on is None:
            return []
        self.switch(relay, on, "command", now_us, word)
        return self.say_state(relay, "command", now_us)
