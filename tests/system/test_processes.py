"""What the processes say of themselves, and that each does its work alone."""

import time

import pytest

from tests.system.conftest import Node, Pipeline, Publisher, wait_for

pytestmark = pytest.mark.stack


def test_health_turns_503_without_the_broker_or_the_database_and_back(pipeline: Pipeline):
    assert (pipeline.health("uplink"), pipeline.health("worker")) == (200, 200)
    for server, process in (("mosquitto", "uplink"), ("timescale", "worker")):
        pid = pipeline.pid(process)
        pipeline.stack.stop_process(server)
        wait_for(lambda p=process: pipeline.health(p) == 503, f"{process} misses {server}")
        pipeline.stack.start_process(server)
        wait_for(lambda p=process: pipeline.health(p) == 200, f"{process} has {server} again")
        assert pipeline.pid(process) == pid


@pytest.mark.parametrize("after_an_outage", [False, True], ids=["", "after-an-outage"])
def test_a_second_worker_with_the_same_number_refuses_to_start(
    pipeline: Pipeline, publisher: Publisher, home: str, after_an_outage: bool
):
    if after_an_outage:  # it ends every connection, and the locks they held
        pipeline.stack.restart("timescale")
        wait_for(lambda: pipeline.health("worker") == 200, "the worker is well again")
        time.sleep(5)
    pid = pipeline.pid("worker")
    second = pipeline.spawn("-m", "streams", METERSTREAM_INSTANCE="0")
    try:
        _, errors = second.communicate(timeout=90)
    finally:
        second.kill()
        second.communicate()
    assert second.returncode not in (0, -9)
    assert "worker 'worker-0' is already running on this database" in errors
    assert "METERSTREAM_INSTANCE" in errors
    assert "Traceback" not in errors
    assert pipeline.pid("worker") == pid
    node = Node(publisher, home)
    node.say(None, power_w=1.0)
    wait_for(
        lambda: pipeline.value("SELECT count(*) FROM device WHERE address = %s", node.address),
        "the first worker goes on",
    )
