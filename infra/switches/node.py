"""A node with our firmware: runs a command id at most once, never one that has expired."""

import msgspec

from infra.switches.device import Publish, Switch, wanted
from schemas.units import SECOND_US

REMEMBERED = 64


class Command(msgspec.Struct):
    command_id: str
    command_seq: int
    expires_at: int
    action: str
    relay: str | None = None


class Node(Switch):
    """`homesync/<home>/nodes/<node>/…`; one relay, which is the device's own state."""

    family = "homesync"
    deduplicates = True
    clean_session = False

    def __init__(self, name: str, home: str) -> None:
        super().__init__(name)
        self.home = home
        self._base = f"homesync/{home}/nodes/{name}"
        self._last_seq = 0
        self._outcomes: dict[str, dict[str, object]] = {}

    @property
    def address(self) -> str:
        return f"homesync:{self.home}/{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return (f"{self._base}/command/#",)

    @property
    def will(self) -> Publish:
        return Publish(f"{self._base}/online", b"false", retain=True)

    def channel(self, relay: int) -> str | None:
        return None

    def boot(self, now_us: int) -> list[Publish]:
        online = Publish(f"{self._base}/online", b"true", retain=True)
        return [online, *self.say_state(0, "", now_us)]

    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        said = {"ts": now_us / SECOND_US, "relay": self.on[0], "node_id": self.name}
        return [Publish(f"{self._base}/status", msgspec.json.encode(said))]

    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        try:
            command = msgspec.json.decode(payload, type=Command)
        except msgspec.DecodeError as error:
            return self._answer({"outcome": "failed", "reason": str(error)}, now_us)
        known = self._outcomes.get(command.command_id)
        if known is not None:
            return self._answer(known, now_us)
        switched: list[Publish] = []
        outcome: dict[str, object] = {"command_id": command.command_id, "outcome": "failed"}
        on = wanted(command.action, self.on[0])
        if command.expires_at * SECOND_US <= now_us:
            outcome["reason"] = "expired"
        elif command.command_seq <= self._last_seq:
            outcome["reason"] = f"older than {self._last_seq}, which has run"
        elif on is None or command.relay is not None:
            outcome["reason"] = f"no {command.action!r:.20} of relay {command.relay!r:.20} here"
        else:
            outcome |= {"outcome": "done", "was_on": self.on[0]}
            self._last_seq = command.command_seq
            self.switch(0, on, "command", now_us, command.command_id)
            switched = self.say_state(0, "command", now_us)
        self._outcomes[command.command_id] = outcome
        if len(self._outcomes) > REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]
        return [*self._answer(outcome, now_us), *switched]

    def _answer(self, outcome: dict[str, object], now_us: int) -> list[Publish]:
        said = {**outcome, "ts": now_us / SECOND_US}
        return [Publish(f"{self._base}/response/command", msgspec.json.encode(said))]
