"""Modules that are needed seldom: nobody keeps them, so their memory comes back."""

import gc
import sys


def seldom(name):
    """The module `node.<name>`, read anew. Once the caller is done with it, it is garbage.

    Functions alone may be asked of it: a class would be another one each time.
    """
    gc.collect()  # what is thrown away later should not lie between what stays
    module = __import__("node." + name, None, None, (name,))
    if sys.implementation.name == "micropython":
        del sys.modules["node." + name]
        delattr(sys.modules["node"], name)
    return module
