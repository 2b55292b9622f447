"""Are wrong bills and costs seen after a run of faults?"""

from datetime import UTC, date, datetime
from decimal import Decimal

from infra.chaos.money import wrong_bills, wrong_cost
from infra.trials.street import PureBill
from schemas.cost import Amount, CostState, HomeCost
from sinks.bills import Issued

NOW = datetime(2026, 7, 5, tzinfo=UTC)


def version(number: int, total: str, difference: str | None = None) -> Issued:
    adjustment = None if difference is None else {"difference": difference}
    month, sha256 = date(2026, 6, 1), f"sha of {total}"
    return Issued(
        number, "h", month, number, "mea-1.2", "THB", Decimal(total), "{}", sha256, adjustment,
        NOW, NOW,
    )  # fmt: skip


WANTED = PureBill("sha of 30.00", Decimal("30.00"))
SOUND = [version(1, "10.00"), version(2, "25.00", "15.00"), version(3, "30.00", "5.00")]


def test_versions_that_follow_each_other_and_end_at_the_registers_bill_are_sound():
    assert wrong_bills("h", SOUND, WANTED) == []


def test_a_missing_bill_a_lost_version_a_wrong_difference_and_a_wrong_end_are_seen():
    assert wrong_bills("h", [], WANTED) == ["h has no bill"]
    (lost, difference) = wrong_bills("h", [SOUND[0], SOUND[2]], WANTED)
    assert "[1, 3]" in lost
    assert "difference of 5.00" in difference
    (end,) = wrong_bills("h", SOUND[:2], WANTED)
    assert "is not the bill of its registers, 30.00" in end
    (twice,) = wrong_bills("h", [*SOUND, version(4, "30.00", "0.00")], WANTED)
    assert "changes nothing" in twice


def test_a_cost_that_is_not_its_bill_is_seen():
    def cost(with_service: str) -> HomeCost:
        amount = Amount(NOW, NOW, "1", "0", "1.00", with_service)
        return HomeCost("h", CostState.RUNNING, NOW, cycle=amount)

    assert wrong_cost("h", cost("30.00"), WANTED) == []
    assert "the cost is 29.99" in wrong_cost("h", cost("29.99"), WANTED)[0]
    assert "no running cost" in wrong_cost("h", None, WANTED)[0]
