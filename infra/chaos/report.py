"""What a run of faults came to: one document, a table for people, a passage for the docs."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.local.settings import PROJECT_ROOT
from infra.swarm.probe import percentile

if TYPE_CHECKING:
    from sinks.accounting import Account, Failure

BEFORE_S = 2.0  # what is lost by a fault was measured at most so long before it
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
RESULT = PROJECT_ROOT / "docs" / "reliability.md"


@dataclass
class Row:
    """One fault. Times in seconds; `at` is RFC 3339.

    `recovery_s`: from the fault's end to the answer that holds the first row measured after it,
    and to a process that serves again where the target is not in the flow. `every_node_s`: until
    each node has such a row. None: not within the limit.
    """

    number: int
    kind: str
    target: str
    at: str
    lasted_s: float
    recovery_s: float | None = None
    every_node_s: float | None = None
    lost: int = 0
    duplicates: int = 0
    skipped: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """`failures` says in words what did not hold; the run is ok when there is none."""

    seed: int
    commit: str
    machine: str
    began_at: str
    duration_s: float
    kinds: Sequence[str]
    targets: Sequence[str]
    devices: int
    rate: float
    readings_per_s: float
    account: dict[str, Any]
    memory: dict[str, dict[str, float]]
    faults: list[Row]
    failures: list[str]
    commands: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failures

    def document(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self), "recoveries": [asdict(r) for r in self.recoveries()]}

    def recoveries(self) -> "list[Recovery]":
        """Seconds to recovery, by kind and target."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.faults:
            if not row.skipped:
                found.setdefault((row.kind, row.target), []).append(row)
        return [_recovery(key, rows) for key, rows in sorted(found.items())]


@dataclass(frozen=True)
class Recovery:
    kind: str
    target: str
    count: int
    p50_s: float | None
    p95_s: float | None
    max_s: float | None


def _recovery(key: tuple[str, str], rows: Sequence[Row]) -> Recovery:
    taken = [row.recovery_s for row in rows if row.recovery_s is not None]
    return Recovery(
        *key, len(rows), percentile(taken, 0.5), percentile(taken, 0.95), max(taken, default=None)
    )


def attribute(rows: Sequence[Row], failures: "Iterable[Failure]") -> None:
    """Count each lost or doubled reading to the last fault that began before it was measured."""
    struck = [row for row in rows if not row.skipped]
    for failure in failures:
        what = failure.text.partition(":")[0]
        if what not in ("lost", "duplicate") or not failure.at or not struck:
            continue
        measured_s = datetime.fromisoformat(failure.at).timestamp() + BEFORE_S
        guilty = struck[0]
        for row in struck:
            if datetime.fromisoformat(row.at).timestamp() <= measured_s:
                guilty = row
        if what == "lost":
            guilty.lost += 1
        else:
            guilty.duplicates += 1


def accounted(account: "Account", **more: Any) -> dict[str, Any]:
    """The account's figures, without the names of what failed."""
    figures = asdict(account)
    del figures["failures"], figures["most_named"]
    return {**figures, **more}


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def commit() -> str:
    """The commit that runs, `-dirty` when files differ from it; empty without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def machine() -> str:
    """Processor, cores and memory, in words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory_gib:.0f} GiB, Linux {platform.release()}"


# ---- for people


def passage(report: Report) -> str:
    """The run as Markdown, without its heading."""
    account = report.account
    kinds: dict[str, int] = {}
    for row in report.faults:
        if not row.skipped:
            kinds[row.kind] = kinds.get(row.kind, 0) + 1
    said = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    lines = [
        f"Seed {report.seed}, commit `{report.commit}`, {report.began_at[:10]}, "
        f"{report.duration_s / 60:.0f} minutes on {report.machine}; {report.devices:,} nodes, "
        f"{report.rate:,.0f} messages/s asked, {report.readings_per_s:,.0f} readings/s made. "
        f"{said}.",
        "",
        "| sent | stored | refused | sent again | connections cut | lost | duplicates | invented "
        "| energy difference, µWh | ledger difference, µWh |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| "
        + " | ".join(
            f"{account[name]:,}"
            for name in (
                *("sent", "stored", "refused", "sent_again", "connection_losses", "lost"),
                *("duplicates", "invented", "windows_difference_uwh", "ledger_difference_uwh"),
            )
        )
        + " |",
        "",
        *([f"Commands meanwhile: {counted(report.commands)}.", ""] if report.commands else []),
        "| fault | target | times | p50, s | p95, s | max, s |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {one.kind} | {one.target} | {one.count} | {_s(one.p50_s)} | {_s(one.p95_s)} "
            f"| {_s(one.max_s)} |"
            for one in report.recoveries()
        ),
        "",
        "Seconds from the fault's end to the first stored row that was measured after it; of "
        "processes outside the flow, until they serve again.",
    ]
    if report.failures:
        lines += ["", "**Not held:**", *(f"- {failure}" for failure in report.failures)]
    return "\n".join(lines)


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def write(report: Report, path: Path = RESULT) -> None:
    """Put the passage between the markers of a document; they are added at its end if need be."""
    text = path.read_text() if path.exists() else ""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Faults, the long run\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{passage(report)}\n{END}{after}")
