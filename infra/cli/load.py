"""`meterstream load`: simulated nodes through the whole pipeline, and what became of each reading.

Every reading is followed: its swarm's record says what was sent and acknowledged, the database
what is stored, and the registers what the energy must be.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.loads.accounting import Progress, account_for, claim_devices
from schemas.units import UWH_PER_WH

if TYPE_CHECKING:
    import psycopg

    from infra.swarm.probe import Latencies, Probe
    from infra.swarm.swarm import Counts, SwarmSettings
    from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection
    from sinks.accounting import Account

MOST_DEVICES = 19_000
LONGEST_SILENCE_S = 240.0  # below the gap limit of homesync nodes, 300 s
SAMPLES_PER_S = 100.0
CONNECT_S = 90.0
DRAIN_S = 600.0  # after ten minutes without Kafka
FINAL_S = 300.0
TICKS_WITHIN_S = 60.0  # a worker that has just started reads its state first

Devices = Annotated[int, typer.Option("--devices", min=1, max=MOST_DEVICES)]
Rate = Annotated[float, typer.Option("--rate", help="Messages a second, of all devices together.")]
Seconds = Annotated[float, typer.Option("--seconds", help="How long they speak.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed says the same values.")]
Phases = Annotated[int, typer.Option("--phases", help="1: total; 3: total, l1, l2, l3.")]
BelieveOption = Annotated[
    str,
    typer.Option(
        "--believe", help="ack: end to end, as our nodes; puback: the broker, as bare devices."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class BadLoad(ValueError):
    """The options make no sensible load; the text says what to change."""


class NotRunning(ConnectionError):
    """A part of the pipeline does not answer; the text says which."""


def register(app: typer.Typer) -> None:
    app.command("load")(load)


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds. `error` is by how much they may be too long (99 of 100 samples)."""

    p50: float | None
    p95: float | None
    p99: float | None
    error: float | None
    samples: int
    unseen: int


@dataclass(frozen=True)
class LoadReport:
    """What became of a load. `ok` when nothing is lost, doubled or invented, and energy agrees.

    Rates are those of the time in which readings were made; a machine that cannot keep up
    makes them more slowly than asked.
    """

    ok: bool
    home: str
    seed: int
    devices: int
    phases: int
    believe: str
    messages_sent: int
    messages_acked: int
    readings_sent: int
    readings_acked: int
    readings_stored: int
    refused: int
    lost: int
    duplicates: int
    invented: int
    messages_per_s: float
    readings_per_s: float
    latency_ms: Percentiles
    energy_difference_wh: float
    ledger_difference_wh: float
    sent_again: int
    connection_losses: int
    false_acks: int
    unacked: int
    load_s: float
    drain_s: float
    final_s: float
    cpu_percent: float
    record: str
    failures: list[dict[str, str]]


def load(
    devices: Devices,
    rate: Rate,
    seconds: Seconds,
    seed: Seed = 1,
    phases: Phases = 1,
    believe: BelieveOption = "ack",
    as_json: Json = False,
) -> None:
    """Let simulated nodes speak through the whole pipeline and account for every reading."""
    from confluent_kafka import KafkaException

    from infra.cli.endings import told
    from infra.swarm.swarm import SwarmError
    from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection
    from sinks.finality import NotFinal

    try:
        with told(), shown() as progress:
            report = run_load(
                MqttConnection(),
                KafkaConnection(),
                DatabaseConnection(),
                Options(devices, rate, seconds, seed, phases, believe),
                progress=progress,
            )
    except BadLoad as error:
        raise typer.BadParameter(str(error)) from error
    except (SwarmError, NotFinal, KafkaException) as error:
        print(f"meterstream: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Options:
    """Raises BadLoad if they make no sensible load."""

    devices: int
    rate: float
    seconds: float
    seed: int = 1
    phases: int = 1
    believe: str = "ack"

    def __post_init__(self) -> None:
        if self.phases not in (1, 3):
            raise BadLoad(f"--phases {self.phases}: a node has 1 or 3")
        if self.believe not in ("ack", "puback"):
            raise BadLoad(f"--believe {self.believe}: ack or puback")
        if not 1 <= self.devices <= MOST_DEVICES:
            raise BadLoad(f"--devices {self.devices}: 1 to {MOST_DEVICES:,}")
        if self.rate <= 0 or self.seconds <= 0:
            raise BadLoad("--rate and --seconds must be above 0")
        if self.devices / self.rate > LONGEST_SILENCE_S:
            raise BadLoad(
                f"{self.devices} devices at {self.rate:g} messages/s speak every "
                f"{self.devices / self.rate:.0f} s; more than {LONGEST_SILENCE_S:.0f} s is a gap: "
                f"give --rate {self.devices / LONGEST_SILENCE_S:.1f} or more"
            )
        if self.rate * self.seconds < self.devices:
            raise BadLoad(
                f"not every device would speak; give --seconds {self.devices / self.rate:.0f} "
                "or more"
            )


def run_load(
    mqtt: "MqttConnection",
    kafka: "KafkaConnection",
    database: "DatabaseConnection",
    options: Options,
    *,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> LoadReport:
    """Run a load and account for it. The swarm's record is left in `folder`.

    Raises NotRunning, SwarmError, NotFinal.
    """
    from infra.swarm.probe import Probe
    from infra.swarm.swarm import SwarmSettings, new_record

    told: Progress = progress or (lambda text, done, total: None)
    told("looking at the stack", 0, 0)
    check_running(mqtt, kafka, database)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    settings = SwarmSettings(
        home=f"load-{options.seed}-{stamp}",
        devices=options.devices,
        rate=options.rate,
        seed=options.seed,
        phases=options.phases,
        believe="puback" if options.believe == "puback" else "ack",
        host=mqtt.host,
        port=mqtt.port,
        sample_every=max(1, round(options.rate / SAMPLES_PER_S)),
    )
    channels = claim_devices(database.url, settings)
    record = new_record(settings, folder or _record_folder())
    probe = Probe(database.url)
    try:
        drive = _drive(settings, record, channels, probe, options.seconds, told)
        begun = time.monotonic()
        _wait_final(database.url, kafka.bootstrap, settings, told)
        final_s = time.monotonic() - begun
        latencies = probe.end()
    except BaseException:
        probe.kill()
        raise
    told("accounting", 0, 0)
    account = account_for(database.url, record.path, channels, told)
    return _report(options, settings, drive, latencies, account, record.path, final_s)


# ---------------------------------------------------------------- before


def check_running(
    mqtt: "MqttConnection", kafka: "KafkaConnection", database: "DatabaseConnection"
) -> None:
    """Raises NotRunning that names the first part of the pipeline that does not work; NotLetIn."""
    import psycopg

    from infra.local.door import NEED_ANONYMOUS, knock
    from sinks.finality import LogUnreachable, log_ends

    try:
        knock(mqtt, None, NEED_ANONYMOUS)
    except OSError as error:
        raise NotRunning(f"mosquitto does not answer at {mqtt.host}:{mqtt.port}") from error
    try:
        ends = log_ends(kafka.bootstrap)
    except LogUnreachable as error:
        raise NotRunning(f"kafka: {error}") from error
    with psycopg.connect(database.url, autocommit=True) as conn:
        stored = _next_offsets(conn)
        until = time.monotonic() + TICKS_WITHIN_S
        ticking = working = False
        while not (ticking and working):
            if time.monotonic() > until:
                if not ticking:
                    raise NotRunning(
                        "uplink writes no ticks to energy.raw.v1, so nothing that is sent arrives"
                    )
                raise NotRunning("worker stores nothing of energy.raw.v1")
            time.sleep(0.25)
            ticking = ticking or log_ends(kafka.bootstrap) != ends
            working = working or _next_offsets(conn) != stored


def _next_offsets(conn: "psycopg.Connection[Any]") -> list[tuple[Any, ...]]:
    return conn.execute("SELECT part, next_offset FROM stream_progress ORDER BY 1").fetchall()


def _record_folder() -> Path:
    from infra.local.settings import StackSettings

    return StackSettings().state_dir / "loads"


# ---------------------------------------------------------------- during


@dataclass(frozen=True)
class Drive:
    """How the swarm fared."""

    counts: "Counts"
    made_in_run: int
    messages_sent: int
    unacked: int
    drain_s: float


def _drive(
    settings: "SwarmSettings",
    record: Any,
    channels: dict[int, tuple[int, ...]],
    probe: "Probe",
    seconds: float,
    told: Progress,
) -> Drive:
    import uvloop

    from infra.swarm.swarm import Swarm

    last = len(next(iter(channels.values()))) - 1

    def sample(node: int, seq: int, measured_us: int, left_ns: int) -> None:
        probe.tell(channels[node][last], measured_us, left_ns)

    async def go() -> tuple["Counts", int, int, int, float]:
        async with Swarm(settings, record, sample) as swarm:
            done = threading.Event()
            watcher = threading.Thread(target=watch, args=(swarm, done), daemon=True)
            watcher.start()
            try:
                await swarm.connect(CONNECT_S)
                await swarm.run(seconds)
                made = swarm.counts.made
                begun = time.monotonic()
                await swarm.drain(DRAIN_S)
                await swarm.finish()
                left = await swarm.drain(DRAIN_S)
                return swarm.counts, made, swarm.sent, left, time.monotonic() - begun
            finally:
                done.set()
                watcher.join()

    def watch(swarm: Swarm, done: threading.Event) -> None:
        total = round(seconds * settings.rate)
        while not done.wait(0.25):
            made = swarm.counts.made
            if not made:
                told("connecting", swarm.connected, settings.devices)
            elif made < total:
                told("sending", made, total)
            else:
                told("draining", swarm.counts.acked, made)

    return Drive(*uvloop.run(go()))


def _wait_final(
    database_url: str, bootstrap: str, settings: "SwarmSettings", told: Progress
) -> None:
    from sinks.finality import wait_final

    addresses = [settings.address(node) for node in range(settings.devices)]
    wait_final(
        database_url,
        bootstrap,
        addresses,
        timeout_s=FINAL_S,
        progress=lambda missing: told(f"until usage is final: {missing}", 0, 0),
    )


# ---------------------------------------------------------------- after


def _report(
    options: Options,
    settings: "SwarmSettings",
    drive: Drive,
    latencies: "Latencies",
    account: "Account",
    record: Path,
    final_s: float,
) -> LoadReport:
    from infra.swarm.meters import CHANNELS
    from infra.swarm.probe import percentile

    counts = drive.counts
    taken, off = latencies.latency_ms, latencies.error_ms
    channels = len(CHANNELS[options.phases])
    return LoadReport(
        ok=account.ok and not counts.false_acks and not drive.unacked,
        home=settings.home,
        seed=options.seed,
        devices=options.devices,
        phases=options.phases,
        believe=options.believe,
        messages_sent=drive.messages_sent,
        messages_acked=counts.acked,
        readings_sent=account.sent,
        readings_acked=account.acked,
        readings_stored=account.stored,
        refused=account.refused,
        lost=account.lost,
        duplicates=account.duplicates,
        invented=account.invented,
        messages_per_s=round(drive.made_in_run / counts.run_s, 1),
        readings_per_s=round(channels * drive.made_in_run / counts.run_s, 1),
        latency_ms=Percentiles(
            p50=percentile(taken, 0.50),
            p95=percentile(taken, 0.95),
            p99=percentile(taken, 0.99),
            error=percentile(off, 0.99),
            samples=len(taken),
            unseen=latencies.unseen,
        ),
        energy_difference_wh=account.windows_difference_uwh / UWH_PER_WH,
        ledger_difference_wh=account.ledger_difference_uwh / UWH_PER_WH,
        sent_again=counts.sent_again,
        connection_losses=counts.connection_losses,
        false_acks=counts.false_acks,
        unacked=drive.unacked,
        load_s=round(counts.run_s, 2),
        drain_s=round(drive.drain_s, 2),
        final_s=round(final_s, 2),
        cpu_percent=round(100 * counts.cpu_s / counts.run_s, 1),
        record=str(record),
        failures=[vars(one) for one in account.failures],
    )


# ---------------------------------------------------------------- for people


@contextmanager
def shown() -> Iterator[Progress]:
    """A progress bar on stderr; for a log one line for each thing that is begun."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        said: list[str] = []

        def tell(text: str, done: float, total: float) -> None:
            headline = text.partition(":")[0]
            if said[-1:] != [headline]:
                said.append(headline)
                print(headline, file=sys.stderr, flush=True)

        yield tell
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
        task = bars.add_task("…", total=None)
        yield lambda text, done, total: bars.update(
            task, description=text, completed=int(done), total=int(total) or None
        )


def _print(report: LoadReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", box=None, show_header=False)
    for name, value in asdict(report).items():
        if name == "failures":
            continue
        bad = name in _ZERO and value
        text = f"{value:,}" if isinstance(value, int | float) and name != "ok" else str(value)
        if isinstance(value, dict):
            text = ", ".join(f"{key} {part}" for key, part in value.items())
        table.add_row(name, f"[red]{text}[/]" if bad else text)
    console = Console()
    console.print(table)
    for failure in report.failures:
        console.print(
            f"{failure['channel']} {failure['at']}: {failure['text']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


_ZERO = frozenset(
    {
        "lost",
        "duplicates",
        "invented",
        "energy_difference_wh",
        "ledger_difference_wh",
        "false_acks",
        "unacked",
    }
)
