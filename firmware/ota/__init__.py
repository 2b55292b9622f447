"""Signed updates of a node: what is fetched, checked, tried and kept. See docs/ota.md.

Belongs to the bootloader: an update replaces the application, never these files.
"""

import gc
import sys


def forget():
    """Let go of this package's code, which is needed seldom; the next import brings it back."""
    if sys.implementation.name == "micropython":
        for name in [name for name in sys.modules if name.split(".")[0] == "ota"]:
            del sys.modules[name]
        gc.collect()
