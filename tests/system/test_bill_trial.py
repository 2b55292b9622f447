"""The trial of bills, small: a month, one worker and three, shuffled in two ways."""

import pytest

from infra.trials.bills import run_trial

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]


def test_a_months_bills_are_the_same_with_one_worker_and_with_three():
    said: list[str] = []
    trial = run_trial(15_000, 2, (1, 3), seed=5, progress=said.append)
    print(trial)
    assert [one.workers for one in trial.replays] == [1, 3]
    assert all(one.records > trial.readings >= 15_000 for one in trial.replays), "some came twice"
    assert trial.replays[0].records != trial.replays[1].records, "shuffled alike"
    assert [one.differing for one in trial.replays] == [[], []]
    assert [one.sha256 for one in trial.replays] == [trial.sha256] * 2
    assert trial.ok
