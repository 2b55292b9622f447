"""A node always starts, and never runs what was not verified."""

import functools
import itertools
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import ota.boot  # noqa: E402
import ota.trust  # noqa: E402
import ota.updates  # noqa: E402
import ota_device  # noqa: E402

from tests.firmware.ota_cases import KINDS, Case, Workshop, cases  # noqa: E402
from tests.firmware.ota_trial import every_cut, faults_of, on_cpython, on_micropython  # noqa: E402


def numbered(*chosen: Case) -> list[Case]:
    return [case | {"number": number} for number, case in enumerate(chosen)]


@pytest.fixture
def remembered(monkeypatch):
    """Signatures are checked once each: these cases differ in the byte that is the last written."""
    monkeypatch.setattr(ota.trust, "verify", functools.cache(ota.trust.verify))


def wrong(chosen: list[Case]) -> list[str]:
    verdicts = on_cpython(chosen)
    return [
        f"{case.get('kind')}: {fault}"
        for case, verdict in zip(chosen, verdicts, strict=True)
        for fault in faults_of(case, verdict)
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_damage(kind):
    assert wrong(numbered(*(kind(Workshop(seed)) for seed in range(3)))) == []


def test_a_short_trial():
    chosen = list(cases(200, seed=11))
    assert sum("cuts" in case for case in chosen) > 50
    assert wrong(chosen) == []


@pytest.mark.usefixtures("parts")
def test_the_same_on_micropython():
    chosen = list(cases(2 * len(KINDS), seed=12))
    verdicts = list(on_micropython(chosen))
    assert [verdict["number"] for verdict in verdicts] == list(range(len(chosen)))
    faults = [faults_of(*pair) for pair in zip(chosen, verdicts, strict=True)]
    assert list(itertools.chain(*faults)) == []


@pytest.mark.parametrize("torn", ota_device.TORN)
@pytest.mark.parametrize("sick", [False, True])
def test_power_is_cut_at_bytes_all_over_an_update(remembered, torn: str, sick: bool):
    """Every 41st; `make ota-trial` takes every one."""
    assert wrong(every_cut(sick=sick, torn=torn, step=41)) == []


def test_power_is_cut_again_and_again_at_every_percent(remembered):
    """Five starts that last a hundredth of the update each, then five of two hundredths, …"""
    case = Workshop(7).good()
    written = ota_device.run_case(case)["written"]
    chosen = [case | {"cuts": [written * part // 100] * 5} for part in range(1, 101)]
    assert wrong(numbered(*chosen)) == []


def test_an_update_that_is_cut_goes_on_where_it_stood():
    case = Workshop(8).good()
    whole = ota_device.run_case(case)["written"]
    cut = ota_device.run_case(case | {"cuts": [whole // 2]})["written"]
    assert cut < 1.5 * whole


# ---- a trial that cannot be red proves nothing ----


def accept_all(*_: object) -> bool:
    return True


def test_a_verifier_that_always_succeeds_is_seen(monkeypatch):
    monkeypatch.setattr(ota.trust, "verify", accept_all)
    seen = {line.partition(":")[0] for line in wrong(list(cases(len(KINDS), seed=1)))}
    assert {"flipped_signature", "other_key_under_a_known_name", "signature_of_zeros"} <= seen


def test_a_start_without_a_check_is_seen(monkeypatch):
    monkeypatch.setattr(ota.boot, "_is_whole", accept_all)
    seen = {line.partition(":")[0] for line in wrong(list(cases(len(KINDS), seed=1)))}
    assert "slot_decays" in seen


def test_an_image_that_nobody_reads_back_is_seen(monkeypatch):
    monkeypatch.setattr(ota.updates, "_hex_digest", lambda _: "")
    assert wrong(list(cases(len(KINDS), seed=1)))


def test_a_counter_that_nobody_looks_at_is_seen(monkeypatch):
    true = ota.updates.accepted
    monkeypatch.setattr(
        ota.updates,
        "accepted",
        lambda envelope, root, device, _counter, *rest: true(envelope, root, device, 0, *rest),
    )
    seen = {line.partition(":")[0] for line in wrong(list(cases(len(KINDS), seed=1)))}
    assert "older_counter" in seen
