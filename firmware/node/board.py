"""What a board does once the application was chosen: be set up, update, or run."""

import sys

from node.account import Account, BadAccount
from node.hal import Hal
from node.store import Store


def run(files):
    """`files` is an `ota.flash.Files` with the images; the node's own lie in the flash's root."""
    from node.updating import update_or_start

    store = Store("/account")
    try:
        account = Account(store.read())
    except BadAccount:
        _set_up(store)
        return
    update_or_start(Hal(account), files)


def _set_up(store):
    """By phone over BLE and then a page, or on a board without BLE by a page alone."""
    from node.setup_server import serve

    hal = Hal()
    wifi = None
    if sys.platform == "esp32":
        from node.hal_ble import network_by_phone

        ssid, password, _ = network_by_phone(hal)
        wifi = {"ssid": ssid, "password": password}
    else:
        hal.open_network(hal.name())
    serve(store, hal.feed, wifi)
    hal.reset()
