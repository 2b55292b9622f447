"""Last of all: what the other tests have left in the database adds up."""

import pytest

from tests.system.conftest import Node, Pipeline, Publisher, minute_ago

pytestmark = pytest.mark.stack


@pytest.mark.timeout(600)
def test_verify_finds_nothing_wrong_in_what_all_the_tests_have_stored(
    pipeline: Pipeline, publisher: Publisher, home: str, capsys: pytest.CaptureFixture[str]
):
    node = Node(publisher, home)
    start_us = minute_ago(60)
    for minute in range(3):
        node.say(start_us + minute * 60_000_000, power_w=60.0)
    node.safe()
    pipeline.final(node.address)
    found = pipeline.meterstream("verify")
    checks = {check["name"]: check for check in found["checks"]}
    with capsys.disabled():
        print("\nverify: " + ", ".join(f"{c['checked']} {name}" for name, c in checks.items()))
    assert found["ok"]
    assert all(check["failed"] == 0 for check in checks.values())
    assert checks["minutes"]["checked"] >= 1
