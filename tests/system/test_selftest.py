"""Six planted losses: the accounting sees each of them, and nothing where there is none."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from infra.chaos.plants import PLANTS
from infra.chaos.selftest import FAULTS, Outcome, SelfTestError, selftest, verdict
from infra.local.settings import PROJECT_ROOT

COMMAND = "from infra.cli import main; main()"
GREEN = Outcome(
    sent=100, acked=100, stored=100, lost=0, duplicates=0, invented=0,
    energy_difference_uwh=0, seconds=1.0,
)  # fmt: skip
RED = replace(GREEN, stored=90, lost=10)


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_every_planted_loss_is_caught_and_no_plain_run_is_red(capsys: pytest.CaptureFixture[str]):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "chaos", "selftest", "--seed", "7", "--json"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\nselftest in {told['seconds']:.0f} s:", end="")
        for one in told["plants"]:
            lost, sent = one["planted"]["lost"], one["planted"]["sent"]
            print(f" {one['name']} {lost:,} of {sent:,};", end="")
        print()
    assert told["ok"]
    assert [one["name"] for one in told["plants"]] == [plant.name for plant in PLANTS]
    for one in told["plants"]:
        assert one["caught"]
        assert one["planted"]["lost"] > 0
        plain = one["plain"]
        assert plain["sent"] == plain["acked"] == plain["stored"] == one["planted"]["sent"]
        assert plain["lost"] == plain["duplicates"] == plain["invented"] == 0
        assert plain["energy_difference_uwh"] == 0


@pytest.mark.parametrize(
    ("plain", "planted", "caught"),
    [
        (GREEN, RED, True),
        (GREEN, GREEN, False),
        (RED, RED, False),
        (GREEN, replace(GREEN, duplicates=3), False),
        (replace(GREEN, energy_difference_uwh=1), RED, False),
        (replace(GREEN, invented=1), RED, False),
        (replace(GREEN, stored=99), RED, False),
    ],
)
def test_a_plant_is_caught_by_losses_that_are_not_there_without_it(
    plain: Outcome, planted: Outcome, caught: bool
):
    assert verdict(PLANTS[0], plain, planted).caught is caught


def test_every_plant_has_a_fault_and_an_unknown_one_is_named():
    assert set(FAULTS) == {plant.name for plant in PLANTS}
    with pytest.raises(SelfTestError, match="no plant 'ivy'; there are broker-persistence, "):
        selftest(1, ["ivy"])
