"""What a node has to say, as the body of a message: its envelope without place and time. Pure."""

import json

from node.decimals import decimal


def measured(channels):
    """`channels` is (name, text of its values) each, as `pzem_values` and `clamp_values` make."""
    inner = ",".join(["%s:{%s}" % (json.dumps(name), values) for name, values in channels])
    return ('"channels":{%s}' % inner).encode()


def pzem_values(meter):
    """A PZEM's measurement; its register counts Wh since the last reset."""
    return (
        '"power_w":%s,"voltage_v":%s,"current_a":%s,"frequency_hz":%s,"power_factor":%s,'
        '"import_total_wh":%d'
    ) % (
        decimal(meter.power_dw, 1),
        decimal(meter.voltage_dv, 1),
        decimal(meter.current_ma, 3),
        decimal(meter.frequency_dhz, 1),
        decimal(meter.power_factor_c, 2),
        meter.energy_wh,
    )


def clamp_values(current_ma, power_dw):
    """A clamp's current, and the power it means at the configured voltage."""
    return '"power_w":%s,"current_a":%s' % (decimal(power_dw, 1), decimal(current_ma, 3))


def said_of_itself(relays, firmware=None, model=None, rssi_dbm=None, switched_by=None):
    """The relays' states by name, what moved them, and what else a node says of itself."""
    said = {"relay": relays} if relays else {}
    if switched_by is not None:
        said["switched_by"] = switched_by
    if firmware is not None:
        said["firmware"] = firmware
    if model is not None:
        said["model"] = model
    if rssi_dbm is not None:
        said["rssi_dbm"] = rssi_dbm
    return ('"channels":{},' + json.dumps(said)[1:-1]).encode()
