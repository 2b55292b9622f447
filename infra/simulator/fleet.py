"""The simulated devices of a seed, and everything they say, in order. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from heapq import merge
from random import Random

from infra.simulator.families import Device, Message
from infra.simulator.load import Load
from infra.simulator.shapes import MINUTES, Shapes
from schemas.homesync import ack_topic
from schemas.units import MILLISECOND_US, MINUTE_US

# Each home has one kind of main meter, and two sockets.
HOMES = (("meter", "plug", "socket"), ("pro3em", "pzem", "plug"), ("monitor", "socket", "pzem"))
_MAINS = frozenset({"meter", "pro3em", "monitor"})


def fleet(seed: int, count: int, shapes: Shapes) -> list[Device]:
    """The first `count` devices of a seed; more devices do not change the ones before them."""
    return [_device(seed, number, shapes) for number in range(count)]


def messages(devices: Sequence[Device], start_us: int) -> Iterator[Message]:
    """Everything the devices say from `start_us` on, for ever, in order of `due_us`.

    The same seed, start and shapes give the same bytes.
    """
    return merge(*(device.says(start_us) for device in devices))


def _device(seed: int, number: int, shapes: Shapes) -> Device:
    chance = Random(f"{seed} {number}")
    home = number // len(HOMES[0])
    kind = HOMES[home % len(HOMES)][number % len(HOMES[0])]
    main = kind in _MAINS
    shape = chance.choice(shapes.homes if main else shapes.appliances)
    load = Load(
        shape,
        scale=chance.randrange(600, 1600) if main else chance.randrange(850, 1150),
        shift=chance.randrange(MINUTES // 1440 // 7) * 7 * 1440 + chance.randrange(-45, 46),
        wave=chance.random() * 6.28,
    )
    mac = hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:12]
    home_id = f"sim-{seed}-home-{home + 1}"
    what = "meter" if main else shape.name
    names = {
        "meter": f"homesync:{home_id}/meter",
        "pzem": f"homesync:{home_id}/pzem-{number}",
        "socket": f"wattaway:sim-{mac}",
        "monitor": f"home:{home_id}/meter",
        "pro3em": f"shelly:shellypro3em-{mac}",
        "plug": f"shelly:shellyplugsg3-{mac}",
    }
    address = names[kind]
    id = address.partition(":")[2].rpartition("/")[2]
    status_topic, online, offline = {
        "homesync": (f"homesync/{home_id}/nodes/{id}/online", b"true", b"false"),
        "wattaway": (f"devices/{id}/status", b"online", b"offline"),
        "home": (f"home/{home_id}/device/{id}/status", b"online", b"offline"),
        "shelly": (f"{id}/online", b"true", b"false"),
    }[address.partition(":")[0]]
    return Device(
        number=number,
        kind=kind,
        address=address,
        name=f"Sim {seed} home {home + 1} {what} {number + 1}",
        home_id=home_id,
        status_topic=status_topic,
        online=online,
        offline=offline,
        load=load,
        seed=seed,
        phase_us=chance.randrange(MINUTE_US // MILLISECOND_US) * MILLISECOND_US,
        ack_topic=ack_topic(home_id, id) if kind in ("meter", "pzem") else None,
    )
