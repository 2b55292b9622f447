"""MicroPython's unix port, out of the root file system, with the small heap of a node."""

from infra.local.parts import Parts

HEAP = "120K"  # about what an ESP32 without PSRAM leaves


def micropython(parts: Parts, *arguments: str, heap: str = HEAP) -> list[str]:
    """The command that runs MicroPython with these arguments (a script and its own).

    Debian's own loader starts it, with Debian's libraries: no sandbox, so signals reach it and
    it sees the caller's files. Modules are sought beside the script and in MICROPYPATH.
    Raises FileNotFoundError if the root file system is not built.
    """
    loader = next(parts.rootfs.glob("lib*/ld-linux*.so.*"), None)
    if loader is None:
        raise FileNotFoundError(f"{parts.rootfs} has no loader; `meterstream up` builds it")
    libraries = ":".join(map(str, sorted(parts.rootfs.glob("usr/lib/*-linux-gnu"))))
    program = parts.rootfs / "usr" / "bin" / "micropython"
    return [
        *(str(loader), "--library-path", libraries, str(program)),
        *("-X", f"heapsize={heap}", *arguments),
    ]
