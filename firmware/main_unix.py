"""What main.py is on a board, for the unix port: `micropython -m main_unix` in the flash's folder.

Exit 3 is a restart, 4 deep sleep, 5 a node without an account; 1 what main.py would restart after.
"""

import sys

from ota.loader import mounted_application

_files = mounted_application("images")
del mounted_application

from node.account import BadAccount  # noqa: E402  the application's own, just mounted
from node.hal_unix import Hal  # noqa: E402
from node.updating import update_or_start  # noqa: E402

_hal = Hal()
try:
    update_or_start(_hal, _files)
except BadAccount as error:
    _hal.log("no_account", why=str(error))
    sys.exit(5)
