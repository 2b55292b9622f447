"""A run: load, one fault after the other, and the accounting of all of it."""

import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from infra.chaos import checks, report
from infra.chaos.faults import STRIKES
from infra.chaos.money import Money
from infra.chaos.plan import GROUPS, KINDS, BadPlan, Planned, hits_commands, hits_money, plan
from infra.chaos.report import Report, Row
from infra.chaos.rig import CannotMount, Rig, mounted_disk, private_rig
from infra.chaos.samples import Samples
from infra.chaos.switchings import NotSettled, Switchings
from infra.chaos.zombie import ZombieError
from infra.loads.accounting import Progress
from infra.loads.steady import LoadFailed, SteadyLoad
from infra.local.errors import StackError
from infra.local.servers import wait_until
from infra.swarm.swarm import SwarmSettings
from sinks.finality import LogUnreachable, NotFinal, log_ends, records_behind

LIMIT_S = 300.0  # a fault after which nothing comes for so long ends the run
DRAINED_WITHIN_S = 600.0
WELL_AGAIN_S = 60.0  # every process, when all faults are over
DRAINED_S = 3.0  # no more waits than the nodes make in so long
MOST_NAMED = 100_000
MOST_SAID = 20
SERVES_AT = {
    "rollup": "rollup_metrics_port",
    "cost": "cost_metrics_port",
    "billing": "billing_metrics_port",
    "commands": "commands_metrics_port",
    "downlink": "downlink_metrics_port",
    "presence": "presence_metrics_port",
    "poller": "poller_metrics_port",
    "api": "api_port",
}
"""Processes outside the flow: the port at which their `/health` is."""


@dataclass(frozen=True)
class Options:
    """`count` faults, or as many as begin within `seconds`. `every_s`: from one to the next at
    least. Raises BadPlan if that makes no run."""

    seed: int
    kinds: tuple[str, ...]
    targets: tuple[str, ...]
    count: int | None = None
    seconds: float | None = None
    every_s: float = 0.0
    rate: float = 1000.0
    devices: int = 100
    down_s: float = 600.0
    zombie_s: float = 60.0

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.devices < 1:
            raise BadPlan("--rate and --devices must be above 0")
        next(self.faults())

    def faults(self) -> Iterator[Planned]:
        fixed_s = {"down": self.down_s, "zombie": self.zombie_s}
        return plan(self.seed, self.kinds, self.targets, fixed_s)


def run_chaos(options: Options, told: Progress, folder: Path | None = None) -> Report:
    """A run on a stack of its own; the swarm's record is kept in `folder`, if that is given.

    Raises StackError, SwarmError, LoadFailed, NotSettled.
    """
    with tempfile.TemporaryDirectory(prefix="meterstream-chaos-") as made:
        told("starting a stack of its own", 0, 0)
        proxied = bool(set(options.kinds) & set(GROUPS["net"]))
        wanted = [name for name in KINDS["full"].targets if name in options.targets]
        on_disks = wanted if "full" in options.kinds and can_mount(Path(made)) else []
        with private_rig(Path(made), proxied=proxied, on_disks=on_disks) as rig:
            return run_faults(rig, options, told, folder or Path(made) / "loads")


def can_mount(folder: Path) -> bool:
    try:
        with mounted_disk(folder / "disk"):
            return True
    except CannotMount:
        return False


def run_faults(
    rig: Rig,
    options: Options,
    told: Progress,
    folder: Path,
    *,
    after: Callable[[SteadyLoad, Row], None] | None = None,
) -> Report:
    """Load and faults on a running stack, and what they came to.

    `after` is called with each fault when all is as before it.

    Raises LoadFailed if there is nothing to account for, NotSettled if no command can be given.
    """
    began = time.time()
    settings = SwarmSettings(
        home=f"chaos-{options.seed}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
        devices=options.devices,
        rate=options.rate,
        seed=options.seed,
        port=rig.mqtt_port,
    )
    rows: list[Row] = []
    failures: list[str] = []
    load = SteadyLoad(
        settings,
        database_url=rig.stack.database_url,
        kafka_bootstrap=rig.stack.kafka_bootstrap,
        folder=folder,
    )
    rig.load = load
    refused = _refused(rig)
    with ExitStack() as held:
        samples = held.enter_context(Samples(rig.stack))
        money = None
        if hits_money(options.kinds, options.targets):
            money = held.enter_context(Money(rig.stack, f"{settings.home}-", options.seed))
        held.enter_context(load)
        switchings = None
        if hits_commands(options.kinds, options.targets):
            home = f"{settings.home}-relays"
            switchings = held.enter_context(
                Switchings(rig.stack, rig.mqtt_port, folder, home, options.seed)
            )
        try:
            load.wait_until_stored(time.time())
            for planned in _due(options, told):
                with _undisturbed(switchings, planned):
                    rows.append(_strike(rig, load, samples, planned))
                if after is not None:
                    after(load, rows[-1])
                time.sleep(planned.pause_s)
        except (LoadFailed, ZombieError, StackError, LogUnreachable, NotSettled) as error:
            failures.append(f"fault {len(rows) + 1}: {error}")
        spoke_s = time.time() - began
        try:
            account = load.finish(told, most_named=MOST_NAMED)
        except (LoadFailed, NotFinal) as error:
            raise LoadFailed("; ".join([*failures, str(error)])) from error
        if money is not None:
            told("looking at bills and costs", 0, 0)
            failures += money.settle()
        if switchings is not None:
            told("looking at commands", 0, 0)
            failures += switchings.settle()
    if failures or not account.ok:
        failures += _evidence(rig, folder, told)
    told("looking at offsets and topics", 0, 0)
    failures += [f"{one.channel} {one.at}: {one.text}" for one in account.failures[:MOST_SAID]]
    if load.unacked or load.counts.false_acks:
        failures.append(f"{load.unacked} never acknowledged, {load.counts.false_acks} false acks")
    if more := _refused(rig) - refused:
        failures.append(f"{more} records were refused")
    for name in SERVES_AT:
        if not wait_until(lambda n=name: _serves(rig, n, 0), timeout_s=WELL_AGAIN_S):  # type: ignore[misc]
            failures.append(f"{name} is not well {WELL_AGAIN_S:.0f} s after all")
    failures += filter(
        None,
        [checks.offsets_differ(rig.stack), checks.announced_differ(rig.stack, settings.home)],
    )
    report.attribute(rows, account.failures)
    return Report(
        seed=options.seed,
        commit=report.commit(),
        machine=report.machine(),
        began_at=report.rfc3339(began),
        duration_s=round(time.time() - began, 1),
        kinds=options.kinds,
        targets=options.targets,
        devices=options.devices,
        rate=options.rate,
        readings_per_s=round(load.counts.made / spoke_s, 1),
        account=report.accounted(
            account,
            unacked=load.unacked,
            false_acks=load.counts.false_acks,
            sent_again=load.counts.sent_again,
            connection_losses=load.counts.connection_losses,
        ),
        memory=samples.summary(),
        faults=rows,
        failures=failures,
        commands={} if switchings is None else dict(switchings.counts),
    )


def _evidence(rig: Rig, folder: Path, told: Progress) -> list[str]:
    """Keep the logs beside the record; what `meterstream verify` has to say of the tables."""
    from infra.cli.verify import verify_stored

    told("looking for the cause", 0, 0)
    shutil.copytree(rig.stack.log_dir, folder / "logs", dirs_exist_ok=True)
    checks = verify_stored(rig.stack.database_url, rig.stack.kafka_bootstrap)
    return [
        f"verify {check.name}: {check.failed} of {check.checked} fail: {check.failures[0].text}"
        for check in checks
        if not check.ok
    ] or ["verify: all that is stored adds up"]


def _due(options: Options, told: Progress) -> Iterator[Planned]:
    """The faults, each when its time has come."""
    begun = time.monotonic()
    struck = 0.0
    for planned in options.faults():
        if options.count is not None and planned.number > options.count:
            return
        while (left_s := struck + options.every_s - time.monotonic()) > 0 and struck:
            time.sleep(min(left_s, 1.0))
        if options.seconds is not None and time.monotonic() - begun >= options.seconds:
            return
        struck = time.monotonic()
        text = f"fault {planned.number}, {planned.kind} {planned.target}"
        if options.seconds is not None:
            told(text, struck - begun, options.seconds)
        else:
            told(text, planned.number, options.count or 0)
        yield planned


def _strike(rig: Rig, load: SteadyLoad, samples: Samples, planned: Planned) -> Row:
    """Do a fault, and wait until all is as before. Raises LoadFailed, ZombieError, StackError."""
    at = time.time()
    row = Row(planned.number, planned.kind, planned.target, report.rfc3339(at), 0.0)
    row.skipped = _impossible(rig, planned)
    if row.skipped:
        return row
    memory = {"start": samples.resident_mib()} if planned.kind == "down" else None
    before = {name: rig.stack.pid(name) for name in planned.targets if name in SERVES_AT}
    if planned.kind == "stop":
        before = dict.fromkeys(before, 0)  # it goes on as the process it was
    struck = STRIKES[planned.kind](rig, planned)
    if memory is not None:
        memory["end"] = samples.resident_mib()
    row.lasted_s = round(struck.ended_at - at, 2)
    row.notes = struck.notes
    first_s = load.wait_until_stored(struck.ended_at, nodes=1, timeout_s=LIMIT_S)
    every_s = load.wait_until_stored(struck.ended_at, timeout_s=LIMIT_S)
    if struck.recovery_s is not None:
        first_s = struck.recovery_s
    for name, pid in before.items():
        if not wait_until(lambda n=name, p=pid: _serves(rig, n, p), timeout_s=LIMIT_S):  # type: ignore[misc]
            raise LoadFailed(f"{name} does not serve {LIMIT_S:.0f} s after {planned.kind}")
        first_s = max(first_s, time.time() - struck.ended_at)
    row.recovery_s, row.every_node_s = round(first_s, 2), round(every_s, 2)
    if memory is not None:
        row.notes["drained_s"] = _drained_s(rig, load, struck.ended_at)
        memory["drained"] = samples.resident_mib()
        row.notes["resident_mib"] = memory
    return row


def _undisturbed(switchings: Switchings | None, planned: Planned) -> AbstractContextManager[None]:
    """A restored database has forgotten what was commanded after its dump: so nothing is."""
    if switchings is not None and planned.kind == "backup":
        return switchings.none_open()
    return nullcontext()


def _impossible(rig: Rig, planned: Planned) -> str:
    """Why this rig cannot have this fault; empty if it can."""
    if planned.kind in GROUPS["net"] and rig.proxies is None:
        return "no proxies on the hops"
    if planned.kind == "full" and planned.target not in rig.disks:
        return "cannot mount"
    return ""


def _serves(rig: Rig, name: str, before: int) -> bool:
    """Whether another process than `before` answers."""
    url = f"http://127.0.0.1:{getattr(rig.stack.settings, SERVES_AT[name])}/health"
    try:
        if rig.stack.pid(name) == before:
            return False
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, StackError, urllib.error.HTTPError):
        return False


def _drained_s(rig: Rig, load: SteadyLoad, ended_at: float) -> float:
    """Seconds from a fault's end until no more waits than is under way at any time."""
    most = DRAINED_S * load.settings.rate

    def drained() -> bool:
        if load.counts.made - load.counts.acked > most:
            return False
        try:
            ends = log_ends(rig.stack.kafka_bootstrap)
            with psycopg.connect(rig.stack.database_url, autocommit=True) as conn:
                return records_behind(conn, ends) <= most
        except (psycopg.OperationalError, LogUnreachable):
            return False

    if not wait_until(drained, timeout_s=DRAINED_WITHIN_S, interval_s=0.5):
        raise LoadFailed(f"the backlog has not drained in {DRAINED_WITHIN_S:.0f} s")
    return round(time.time() - ended_at, 1)


def _refused(rig: Rig) -> int:
    ((count,),) = rig.query("SELECT count(*) FROM refused")
    return int(count)
