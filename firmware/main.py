"""The first file that a board runs: chooses the application (`ota`), then runs it.

It and `ota/` are frozen or lie beside it; an update brings `node/` only. Whatever ends the
application restarts the board: so an image that cannot even be imported is rolled back.
"""

import sys
import time

from ota.loader import mounted_application

_files = mounted_application("/images")
del mounted_application

try:
    from node.board import run

    run(_files)
except Exception as error:
    import machine  # not by `hal`: it may be what is broken

    sys.print_exception(error)
    time.sleep(5)
    machine.reset()
