"""The first file that a board runs: chooses the application (`ota`), then runs it.

It and `ota/` are frozen or lie beside it; an update brings `node/` only.
"""

import os

from ota.flash import Files
from ota.loader import mount_application

IMAGES = "/images"

try:
    os.mkdir(IMAGES)
except OSError:
    pass  # it is there
_files = Files(IMAGES)
mount_application(_files)

from node.board import run  # noqa: E402

run(_files)
