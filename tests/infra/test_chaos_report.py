"""What is told of a run, in the document and in the docs."""

import json
from pathlib import Path

import pytest

from infra.chaos.report import BEGIN, END, Report, Row, write

ACCOUNT = {
    "sent": 2_000, "acked": 2_000, "stored": 2_000, "refused": 0, "lost": 0, "duplicates": 0,
    "invented": 0, "windows_difference_uwh": 0, "ledger_difference_uwh": 0, "unacked": 0,
    "false_acks": 0, "sent_again": 30, "connection_losses": 4,
}  # fmt: skip


@pytest.fixture
def report() -> Report:
    def row(number: int, target: str, recovery_s: float | None, skipped: str = "") -> Row:
        at = f"2026-11-21T09:00:{number:02}.000+00:00"
        return Row(number, "kill", target, at, 0.0, recovery_s, recovery_s, skipped=skipped)

    faults = [row(n, "kafka", float(n)) for n in range(1, 21)]
    faults += [row(21, "worker", 4.0), row(22, "worker", None), row(23, "worker", None, "no")]
    return Report(
        seed=7, commit="abc1234", machine="a machine", began_at="2026-11-21T09:00:00.000+00:00",
        duration_s=600.0, kinds=("kill",), targets=("kafka", "worker"), devices=100, rate=1000.0,
        readings_per_s=998.4, account=ACCOUNT, memory={}, faults=faults, failures=[],
    )  # fmt: skip


def test_recoveries_are_told_by_target_without_what_was_skipped(report: Report):
    kafka, worker = report.recoveries()
    assert (kafka.target, kafka.count, kafka.p50_s, kafka.p95_s, kafka.max_s) == (
        "kafka", 20, 10.0, 19.0, 20.0,
    )  # fmt: skip
    assert (worker.count, worker.p50_s, worker.max_s) == (2, 4.0, 4.0)


def test_the_document_is_json_with_a_row_a_fault(report: Report):
    document = json.loads(json.dumps(report.document()))
    assert document["ok"] is True
    assert len(document["faults"]) == 23
    wanted = {"number", "target", "kind", "at", "lasted_s", "recovery_s", "lost", "duplicates"}
    assert wanted <= document["faults"][0].keys()


def test_one_failure_is_enough_not_to_be_ok(report: Report):
    report.failures.append("homesync:h/n1 total: energy")
    assert report.document()["ok"] is False


def test_the_passage_is_replaced_and_what_stands_around_it_stays(report: Report, tmp_path: Path):
    path = tmp_path / "reliability.md"
    path.write_text(f"# Reliability\n\n{BEGIN}\nold\n{END}\n\n## Not covered\n")
    write(report, path)
    write(report, path)
    text = path.read_text()
    assert text.startswith(f"# Reliability\n\n{BEGIN}\nSeed 7, commit `abc1234`, 2026-11-21")
    assert text.endswith(f"{END}\n\n## Not covered\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "old" not in text
    assert "| kill | kafka | 20 | 10.0 | 19.0 | 20.0 |" in text
    assert "| 2,000 | 2,000 | 0 | 30 | 4 | 0 | 0 | 0 | 0 | 0 |" in text


def test_a_document_without_markers_gets_them_at_its_end(report: Report, tmp_path: Path):
    path = tmp_path / "reliability.md"
    path.write_text("# Reliability\n")
    write(report, path)
    assert path.read_text().startswith("# Reliability\n\n## Faults, the long run\n")
