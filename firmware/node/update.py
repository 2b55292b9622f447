"""An update that has the memory to itself: verified, downloaded, staged; then a restart."""

import json

from micropython import const
from node.updating import COMMAND

_GIVE_UP_MS = const(3_600_000)
_RETRY_MS = const(5_000)


def run_update(hal, files, job, store, fetch):
    """Do the update, or find out why not; then restart."""
    from ota.errors import Refused
    from ota.updates import Updates

    updates = Updates(files, hal.device, fetch, hal.feed)
    answer = {"command_id": job["command_id"], "outcome": "failed"}

    def now_s():
        return (job["unix_ms"] + hal.up_ms()) // 1000

    try:
        command = json.loads(files.read(COMMAND, 0, files.size(COMMAND)))
        updates.command(command["parameters"], job["command_id"], now_s())
        command = None  # its memory is needed
        while _fetch_some(hal, updates, now_s):
            if hal.up_ms() > _GIVE_UP_MS:
                raise Refused("damaged", "not downloaded within an hour")
        store.write({})
    except Refused as error:
        if updates.report() is not None:
            updates.reported()  # it says the same in fewer words
        answer["reason"] = "%s: %s" % (error.reason, error.detail)
        store.write({"answer": answer})
    except Exception as error:  # or every start would begin it again, and the node never measure
        answer["reason"] = "%s: %s" % (type(error).__name__, error)
        store.write({"answer": answer})
    hal.log("update_over", ready=updates.ready, why=answer.get("reason"))
    hal.reset()


def _fetch_some(hal, updates, now_s):
    hal.feed()
    try:
        if hal.link_up():
            return updates.step(now_s())
    except OSError:
        pass  # better the next time
    hal.pause(_RETRY_MS)
    return True
