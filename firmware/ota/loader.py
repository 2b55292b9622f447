"""Starts what `boot.choose` chose: the bundle's modules come before the built-in ones."""

import gc
import os
import sys

from micropython import const

from ota import forget
from ota.boot import choose
from ota.bundle import BadBundle, BundleFiles
from ota.flash import Files
from ota.state import State, image_name

_APPLICATION = const("/app")
_IMPORT_GARBAGE_BYTES = const(2048)  # collected that often, what imports throw away leaves no holes


def mounted_application(folder):
    """Choose and mount, and make room for what was chosen; the images in `folder`, as Files."""
    try:
        os.mkdir(folder)
    except OSError:
        pass  # it is there
    files = Files(folder)
    mount_application(files)
    forget()
    gc.threshold(_IMPORT_GARBAGE_BYTES)
    return files


def mount_application(files):
    """Mount the chosen slot's bundle on /app, first in `sys.path`: (slot, trial), as `choose`.

    A signed image that is no bundle is not run: one that is tried is rolled back.
    """
    import vfs

    slot, trial = choose(files)
    if slot is None:
        return None, False
    state = State(files)
    try:
        bundle = BundleFiles(files.path(image_name(slot)), state.slots[slot]["size"])
    except BadBundle:
        if trial:
            state.roll_back("malformed")
            return mount_application(files)
        return None, False
    vfs.mount(bundle, _APPLICATION)
    sys.path.insert(0, _APPLICATION)
    return slot, trial
