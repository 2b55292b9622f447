"""A node that only updates itself, for MicroPython: from a start to the next, as main.py does it.

Its folder is the flash: `images/`, and `command.json`, what the server keeps sending. Writes
`report.json` when it has something to say. Exit 3 is a restart, 0 the end.
"""

import gc
import json
import sys

from ota.flash import Files
from ota.http import fetch
from ota.loader import mount_application
from ota.updates import Updates

DEVICE = {"product": "node", "hw_rev": "r1", "slot_bytes": 262_144}


def main():
    files = Files("images")
    slot, trial = mount_application(files)
    try:
        import application

        name = application.NAME + application.helper()
    except ImportError:
        name = "built-in"
    print("runs", name, slot, trial)
    updates = Updates(files, DEVICE, fetch)
    if trial:
        updates.confirm()
    report = updates.report()
    if report is not None:
        with open("report.json", "w") as file:
            file.write(json.dumps(report))
        updates.reported()
        sys.exit(0)
    with open("command.json") as file:
        command = json.loads(file.read())
    now_s = command.pop("now_s")
    if not updates.resume(now_s):
        updates.command(command, "c1", now_s)
    command = None
    while updates.step(now_s):
        gc.collect()
        print("step", gc.mem_alloc())
    print("ready", updates.ready)
    sys.exit(3)


main()
