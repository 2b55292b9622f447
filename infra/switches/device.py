"""What all simulated relays have in common. Pure: they are given messages and the time."""

from abc import ABC, abstractmethod
from typing import NamedTuple

WALL, TIMER = "wall", "timer"


class Publish(NamedTuple):
    topic: str
    payload: bytes
    retain: bool = False


class Ran(NamedTuple):
    """A switching that really ran, also one that found the relay as it should be.

    `command` is the id, the number or the bare word by which the device knew it; empty for the
    wall switch and the timer.
    """

    at_us: int
    address: str
    relay: int
    was_on: bool
    is_on: bool
    by: str
    command: str = ""


class Switch(ABC):
    """A device with relays. What `ran` is not written down yet; `take_ran` hands it over.

    Relays keep their state without power, as does what a device writes on its flash.
    """

    family: str
    first_relay = 0
    deduplicates = False
    clean_session = True

    def __init__(self, name: str, relays: int = 1) -> None:
        self.name = name
        self.on = [False] * relays
        self._ran: list[Ran] = []

    @property
    @abstractmethod
    def address(self) -> str: ...

    @property
    @abstractmethod
    def subscriptions(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def will(self) -> Publish: ...

    @abstractmethod
    def boot(self, now_us: int) -> list[Publish]:
        """What it says when it is connected."""

    @abstractmethod
    def receive(self, topic: str, payload: bytes, now_us: int) -> list[Publish]:
        """Do what a message says; returns what it answers. Never raises."""

    @abstractmethod
    def say_state(self, relay: int, by: str, now_us: int) -> list[Publish]:
        """What it publishes when a relay has switched."""

    def channel(self, relay: int) -> str | None:
        """The name of a relay's channel; None: the state is the device's."""
        return f"relay:{relay + self.first_relay}"

    def press(self, relay: int, now_us: int) -> list[Publish]:
        """Somebody presses the wall switch."""
        self.switch(relay, not self.on[relay], WALL, now_us)
        return self.say_state(relay, WALL, now_us)

    def tick(self, now_us: int) -> list[Publish]:
        """What its own timers do."""
        return []

    def switch(self, relay: int, on: bool, by: str, now_us: int, command: str = "") -> None:
        self._ran.append(Ran(now_us, self.address, relay, self.on[relay], on, by, command))
        self.on[relay] = on

    def take_ran(self) -> list[Ran]:
        ran, self._ran = self._ran, []
        return ran

    def relay_of(self, word: str) -> int | None:
        """The relay that a number in a topic or payload means."""
        if not word.isdecimal():
            return None
        relay = int(word) - self.first_relay
        return relay if 0 <= relay < len(self.on) else None


def wanted(word: str, now_on: bool) -> bool | None:
    """What `on`, `off` or `toggle` asks for; None for anything else."""
    return {"on": True, "off": False, "toggle": not now_on}.get(word.lower())
