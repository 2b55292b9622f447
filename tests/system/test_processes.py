"""What the processes say of themselves, and that each does its work alone."""

from datetime import datetime

import pytest

from tests.system.conftest import Node, Pipeline, Publisher, wait_for

pytestmark = pytest.mark.stack


def test_without_broker_or_database_health_is_503_and_what_comes_meanwhile_waits(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    assert (pipeline.health("uplink"), pipeline.health("worker")) == (200, 200)
    node = Node(publisher, home)
    refused = pipeline.value("SELECT count(*) FROM refused")
    for server, process in (("timescale", "worker"), ("mosquitto", "uplink")):
        pid = pipeline.pid(process)
        pipeline.stack.stop_process(server)
        wait_for(lambda p=process: pipeline.health(p) == 503, f"{process} misses {server}")
        if server == "timescale":
            node.say(None, power_w=1.0)
            node.safe()
        pipeline.stack.start_process(server)
        wait_for(lambda p=process: pipeline.health(p) == 200, f"{process} has {server} again")
        assert pipeline.pid(process) == pid
    wait_for(lambda: registered(pipeline, node), "what came during the outage is stored")
    assert pipeline.value("SELECT count(*) FROM refused") == refused


def test_a_second_worker_with_the_same_number_refuses_to_start_also_after_an_outage(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    named = holder(pipeline)
    pipeline.stack.restart("timescale")  # it ends every connection, and the locks they held
    wait_for(lambda: holder(pipeline) not in (None, named), "the worker has its name again")
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
    wait_for(lambda: registered(pipeline, node), "the first worker goes on")


def registered(pipeline: Pipeline, node: Node) -> int:
    return int(pipeline.value("SELECT count(*) FROM device WHERE address = %s", node.address))


def holder(pipeline: Pipeline) -> datetime | None:
    """Since when a connection holds the name `worker-0`; a restarted server gives pids again."""
    rows = pipeline.query(
        "SELECT backend_start FROM pg_stat_activity JOIN pg_locks USING (pid) "
        "WHERE application_name = 'worker-0' AND locktype = 'advisory' AND granted"
    )
    return rows[0][0] if rows else None
