"""Some relays of every family."""

from collections.abc import Callable

from infra.switches.device import Switch
from infra.switches.node import Node
from infra.switches.others import Tasmota, ThaiMonitor, WattAway, Zigbee
from infra.switches.shelly import ShellyGen1, ShellyGen2


def devices_of(count: int, home: str) -> list[Switch]:
    """`count` devices, of all families in turn; a third are nodes of ours."""
    makers: list[Callable[[int], Switch]] = [
        lambda n: Node(f"node-{n}", home),
        lambda n: ShellyGen2(f"shellypro2-{n:012x}"),
        lambda n: Node(f"node-{n}", home),
        lambda n: WattAway(str(1000 + n)),
        lambda n: ShellyGen1(f"shellyswitch25-{n:06X}", 2),
        lambda n: Tasmota(f"tasmota_{n:06X}", 2),
        lambda n: ThaiMonitor(f"pump-{n}", home),
        lambda n: Node(f"node-{n}", home),
        lambda n: Zigbee(f"plug-{n}"),
    ]
    return [makers[number % len(makers)](number) for number in range(count)]
