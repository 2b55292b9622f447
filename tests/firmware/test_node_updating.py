"""An update beside the node: the command put down, done with all the memory, and told of."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from node.store import Store
from node.update import run_update
from node.updating import HEALTHY_WITHIN_MS, Updating, waiting_job
from ota.boot import choose
from ota.flash import Files
from ota.updates import provision

sys.path.insert(0, str(Path(__file__).parents[2]))  # helpers of `ota` go by their full name
from tests.firmware import ota_cases
from tests.firmware.ota_device import Server


class Restart(BaseException):
    pass


class Board:
    """The clock, the link and the reset button of a board."""

    flash = ""

    def __init__(self, device: dict[str, Any]) -> None:
        self.device = device
        self.now_ms = 0
        self.events: list[dict[str, Any]] = []

    def up_ms(self) -> int:
        return self.now_ms

    def link_up(self) -> bool:
        return self.now_ms > 10_000

    def feed(self) -> None:
        self.now_ms += 1

    def pause(self, ms: int) -> None:
        self.now_ms += ms

    def log(self, event: str, **said: Any) -> None:
        self.events.append({"event": event, **said})

    def reset(self) -> None:
        raise Restart


class Flash:
    """A node's flash with the root of a case, and an `ota` command that the node took."""

    def __init__(self, folder: Path, case: dict[str, Any]) -> None:
        (folder / "images").mkdir()
        self.folder = folder
        self.case = case
        self.files = Files(str(folder / "images"))
        provision(self.files, case["root"])
        payload = json.dumps({"command_id": "c1", "parameters": case["command"]}).encode()
        self.updating().take("c1", memoryview(payload), case["now_s"] * 1000)

    def updating(self) -> Updating:
        return Updating(self.files, Store(str(self.folder / "update")))

    def update(self) -> Board:
        """From a start to the restart."""
        board = Board(self.case["device"])
        job, store = waiting_job(str(self.folder))
        assert job is not None
        with pytest.raises(Restart):
            run_update(board, self.files, job, store, Server(self.case).fetch)
        return board


def test_a_signed_image_is_tried_and_done_when_kafka_has_heard_of_it(tmp_path: Path):
    flash = Flash(tmp_path, ota_cases.whole(ota_cases.Workshop(1)))
    flash.update()
    assert waiting_job(str(tmp_path))[0] is None
    assert choose(flash.files)[1] is True, "the new image is tried at the next start"
    node = flash.updating()
    assert node.answer() is None, "not before it is healthy"
    assert not node.is_overdue(HEALTHY_WITHIN_MS)
    assert node.is_overdue(HEALTHY_WITHIN_MS + 1)
    node.confirm()
    assert node.answer() == flash.updating().answer() == ("c1", "done", None)
    node.answered()
    assert node.answer() is flash.updating().answer() is None
    assert choose(flash.files) == ("a", False)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (ota_cases.unsigned, "unsigned"),
        (ota_cases.wrong_product, "wrong_product"),
        (ota_cases.image_flipped, "damaged"),
    ],
)
def test_what_is_refused_is_told_once_and_nothing_is_tried(tmp_path: Path, kind: Any, why: str):
    flash = Flash(tmp_path, kind(ota_cases.Workshop(2)))
    flash.update()
    assert waiting_job(str(tmp_path))[0] is None, "it is not begun at every start"
    assert choose(flash.files) == (None, False)
    node = flash.updating()
    command_id, outcome, reason = node.answer()
    assert (command_id, outcome) == ("c1", "failed")
    assert reason.startswith(why)
    assert flash.updating().answer() == node.answer(), "as long as the ledger does not have it"
    node.answered()
    assert node.answer() is flash.updating().answer() is None


def test_an_image_that_is_never_healthy_is_rolled_back_and_told(tmp_path: Path):
    flash = Flash(tmp_path, ota_cases.whole(ota_cases.Workshop(3)))
    flash.update()
    while choose(flash.files)[1]:
        pass
    command_id, outcome, reason = flash.updating().answer()
    assert (command_id, outcome, reason) == ("c1", "failed", "not_healthy")


@pytest.mark.parametrize(
    "payload", [b'{"command_id":"c1","parameters":{', b"[]", b'{"parameters":5}']
)
def test_parameters_that_nobody_can_read_fail_the_update_and_not_the_node(
    tmp_path: Path, payload: bytes
):
    flash = Flash(tmp_path, ota_cases.whole(ota_cases.Workshop(4)))
    flash.updating().take("c1", payload, flash.case["now_s"] * 1000)
    flash.update()
    assert waiting_job(str(tmp_path))[0] is None
    command_id, outcome, _ = flash.updating().answer()
    assert (command_id, outcome) == ("c1", "failed")
