"""The radio side of Improv on ESP32: a BLE service that hands what a phone writes to a Session.

Part of the hardware layer, apart from `hal` because it is loaded for set-up only. Not tried on a
board (docs/firmware.md).
"""

import time

import bluetooth
from node import improv

_IRQ_CENTRAL_CONNECT, _IRQ_CENTRAL_DISCONNECT, _IRQ_GATTS_WRITE = 1, 2, 3
_READ, _WRITE_FAST, _WRITE, _NOTIFY = 0x02, 0x04, 0x08, 0x10
_ADVERTISE_US = 250_000


def network_by_phone(hal):
    """(ssid, password, address) that a phone gave and that worked. Waits for it for ever."""
    ble = bluetooth.BLE()
    ble.active(True)
    wanted, pieces = [], []
    session = improv.Session(
        lambda: hal.button_pressed() or not hal.has_button,
        lambda ssid, password: wanted.append((ssid, password)),
        lambda: hal.log("identify"),
    )
    state, error, command, result, capabilities = _register(ble)

    def interrupt(event, data):
        if event == _IRQ_GATTS_WRITE and data[1] == command:
            pieces.append(ble.gatts_read(command))
        elif event == _IRQ_CENTRAL_DISCONNECT:
            _advertise(ble, hal.name())

    ble.irq(interrupt)
    ble.gatts_write(capabilities, b"\x01")
    _advertise(ble, hal.name())
    while True:
        hal.feed()
        while pieces:
            session.written(pieces.pop(0))
        if wanted:
            ssid, password = wanted.pop()
            ble.gatts_write(state, bytes((session.state,)), True)
            address = hal.try_network(ssid, password)
            if address is not None:
                ble.gatts_write(result, session.connected("http://%s/" % address), True)
                ble.gatts_write(state, bytes((session.state,)), True)
                time.sleep_ms(1_000)  # so that the phone can read it
                ble.active(False)
                return ssid, password, address
            session.not_connected()
        session.refresh()
        ble.gatts_write(state, bytes((session.state,)), True)
        ble.gatts_write(error, bytes((session.error,)), True)
        time.sleep_ms(200)


def _register(ble):
    characteristics = [
        (bluetooth.UUID(improv.STATE_UUID), _READ | _NOTIFY),
        (bluetooth.UUID(improv.ERROR_UUID), _READ | _NOTIFY),
        (bluetooth.UUID(improv.COMMAND_UUID), _WRITE | _WRITE_FAST),
        (bluetooth.UUID(improv.RESULT_UUID), _READ | _NOTIFY),
        (bluetooth.UUID(improv.CAPABILITIES_UUID), _READ),
    ]
    service = (bluetooth.UUID(improv.SERVICE), tuple(characteristics))
    handles = ble.gatts_register_services((service,))[0]
    ble.gatts_set_buffer(handles[2], improv.MAX_PACKET, True)
    return handles


def _advertise(ble, name):
    """The service in the advertisement, the name in the answer to a scan."""
    uuid = bytes(reversed(bytes.fromhex(improv.SERVICE.replace("-", ""))))
    ble.gap_advertise(
        _ADVERTISE_US,
        adv_data=b"\x02\x01\x06" + bytes((17, 0x07)) + uuid,
        resp_data=bytes((len(name) + 1, 0x09)) + name.encode(),
    )
