"""Start the node: on a board from main.py, on a PC by `micropython -m node.start`."""

import gc
import sys

# The large ones first, while the compiler has room.
for _module in ("outbox", "mqtt_client", "mqtt_packets", "commands", "meters", "node"):
    __import__("node." + _module)
    gc.collect()

from node.account import Account, BadAccount  # noqa: E402
from node.node import Node  # noqa: E402
from node.store import Store  # noqa: E402


def start(hal, updating=None):
    """Run for ever. Raises BadAccount where the node was never set up."""
    account = Account(Store(hal.flash + "/account").read())
    gc.collect()
    gc.threshold(gc.mem_free() // 4)  # often: what stays then lies close together
    node = Node(hal, account, updating)
    hal.log("started", memory_bytes=hal.memory_bytes())
    node.run()


def main():
    from node.hal_unix import Hal

    hal = Hal()
    try:
        start(hal)
    except BadAccount as error:
        hal.log("no_account", why=str(error))
        sys.exit(5)


if __name__ == "__main__":
    main()
