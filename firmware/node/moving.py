"""Giving a PZEM another address on its bus. Asked for seldom."""

from node.command import Refused
from node.seldom import seldom


def begin(meters, named, parameters):
    """Ask the meter; the setting `meters` as it is when that is done: its channel goes with it.

    `parameters` is {"from_address", "to_address"}. Raises Refused.
    """
    if set(parameters) != {"from_address", "to_address"}:
        raise Refused("another address takes from_address and to_address, and nothing else")
    old, new = parameters["from_address"], parameters["to_address"]
    for address in (old, new):
        if isinstance(address, bool) or not isinstance(address, int):
            raise Refused("address %r is no whole number" % (address,))
    after = dict(named)
    channel = after.pop(str(old), None)
    if channel is None:
        raise Refused("no meter has the address %r; see the setting meters" % (old,))
    if str(new) in after:
        raise Refused("the address %r is another meter's" % (new,))
    after[str(new)] = channel
    seldom("settings").checked({"meters": after})
    try:
        meters.set_address(old, new)
    except ValueError as error:
        raise Refused(str(error))
    return after
