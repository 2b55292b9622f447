"""The benchmark's document: `benchmarks.json`, and text and plots made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.bench import plots, results
from infra.bench.results import Document, Row, Run, Spread

DATA, TEXT, PLOTS = "benchmarks.json", "benchmarks.md", "plots"


@dataclass(frozen=True)
class Column:
    figure: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Section:
    """How a stage is told. `ratio` heads the column of ratios."""

    title: str
    intro: str
    ratio: str
    columns: tuple[Column, ...]
    plot: str | None = None


_COSTS = (
    Column("cpu_us_per_reading", "own CPU µs a reading", 1),
    Column("postgres_us_per_reading", "PostgreSQL µs", 1),
    Column("kafka_us_per_reading", "Kafka µs", 1),
)
_GROWTH = (
    Column("all_us_per_reading", "all CPU µs a reading", 1),
    Column("cpu_us_per_reading", "workers µs", 1),
    *_COSTS[1:],
    Column("readings_per_s", "readings/s"),
)
SECTIONS = {
    "uplink": Section(
        "Uplink: from the broker's queue into Kafka",
        "Both connectors drain the same messages from a persistent session and acknowledge in "
        "order, after Kafka has them.",
        "times less CPU than stock paho",
        (
            Column("cpu_us_per_message", "CPU µs a message", 1),
            Column("messages_per_s", "messages/s"),
        ),
    ),
    "stream": Section(
        "Stream: from a full log into the database",
        "The same readings of 1,000 devices for all. Ours does all of its job; the peers compute "
        "one-minute windows of power and store those, nothing else. Each is one process, but for "
        "our two workers; stock Faust runs as `faust worker -l warning` would. All share "
        "the cores with Kafka and PostgreSQL.",
        "times quixstreams",
        (Column("readings_per_s", "readings/s"), *_COSTS),
        "stream",
    ),
    "sink": Section(
        "Sink: ways into `readings`",
        "20,000 rows of 22 columns a transaction, one connection, an empty table each time. Ready "
        "bytes are made before the clock starts: what remains is the database's own limit.",
        "of the limit",
        (
            Column("rows_per_s", "rows/s"),
            Column("cpu_us_per_row", "client CPU µs a row", 1),
            Column("postgres_us_per_row", "PostgreSQL µs a row", 1),
        ),
        "sink",
    ),
    "rating": Section(
        "Rating: from ledgers to bills",
        "A year of quarter hours a home, each with its own reading day, by blocks and by two "
        "tariffs by time of use; one core, no servers. After a late day, of one home and one "
        "tariff, its cycle is rated again; the year is there to compare.",
        "cost to that of the cycle",
        (Column("cpu_ms", "CPU ms", 2), Column("cpu_us_per_rating", "CPU µs a bill", 1)),
    ),
    "end-to-end": Section(
        "End to end: from publish to committed row",
        "The swarm runs on the same cores; every reading is accounted for afterwards. Latency ends "
        "when a probe has seen the row, so it is too long by the error (99 of 100) at most. Three "
        "phases are four readings a message. Before the first load 5,000 messages/s warm up for "
        "two and a half minutes: so long Kafka's JVM compiles. A commit waits for the disk, which "
        "was tried alone before; with all files in memory latency is the software's own.",
        "of the rate asked",
        (
            Column("asked_messages_per_s", "asked"),
            Column("messages_per_s", "messages/s"),
            Column("readings_per_s", "readings/s"),
            Column("lost", "lost"),
            Column("duplicates", "duplicates"),
            Column("p50_ms", "p50 ms", 1),
            Column("p95_ms", "p95 ms", 1),
            Column("p99_ms", "p99 ms", 1),
            Column("error_ms", "error ms", 1),
            Column("drain_s", "then drained in s", 1),
        ),
        "end-to-end",
    ),
    "commands": Section(
        "Commands: from an API call to a relay that has switched",
        "Simulated nodes on the real broker, callers of the API and all servers on the same cores. "
        "Timed from before the POST until the node has switched (`p50`, `p99`), until the API has "
        "answered, and until the command is confirmed. Before the first load 50 commands/s warm "
        "up for two and a half minutes.",
        "of the rate asked",
        (
            Column("asked_commands_per_s", "asked"),
            Column("commands_per_s", "commands/s", 1),
            Column("not_done", "not done"),
            Column("p50_ms", "p50 ms", 1),
            Column("p99_ms", "p99 ms", 1),
            Column("answered_p50_ms", "answered p50 ms", 1),
            Column("done_p50_ms", "done p50 ms", 1),
            Column("done_p99_ms", "done p99 ms", 1),
        ),
    ),
    "growth-devices": Section(
        "Growth: by devices",
        "From a full log, 12 readings a device and minute; the same number of readings for each, "
        "so a log of few devices is long. Devices are registered before; the first third of each "
        "log warms up; in the rest a window completes for every 12 readings. A log has 12 ticks a "
        "second of its time, so few devices pay more of them a reading.",
        "cost to the smallest",
        _GROWTH,
        "growth",
    ),
    "growth-stored": Section(
        "Growth: by rows already stored",
        "The same log of 1,000 devices, into a table that holds their past, 5 s apart, up to noon "
        "of the day before, where the log begins.",
        "cost to the smallest",
        _GROWTH,
        "growth",
    ),
}


def kept(folder: Path) -> Document:
    """The document in a folder; an empty one where there is none."""
    return results.load(folder / DATA)


def publish(document: Document, folder: Path) -> None:
    """Write data, text and plots."""
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    (folder / DATA).write_text(results.as_json(document))
    plots.draw(document, folder / PLOTS)
    (folder / TEXT).write_text(text(document))


def text(document: Document) -> str:
    """`benchmarks.md`."""
    parts = [
        "# Benchmarks",
        "The last run of each stage of `make bench` (growth: `meterstream bench --stage growth "
        "--write`), made of [benchmarks.json](benchmarks.json). A message is one publish, a "
        "reading one row. What stands in one table ran in turn on the same machine in the same "
        "run: trust the ratios, for machines are noisy. Figures are medians, with the smallest "
        "and largest of the repeats.",
    ]
    drawn: set[str] = set()
    for stage, told in SECTIONS.items():
        run = document.stages.get(stage)
        if run is None:
            continue
        parts.append(section(run))
        if told.plot is not None and told.plot not in drawn:
            drawn.add(told.plot)
            parts.append(f"![{told.title}]({PLOTS}/{told.plot}.svg)")
    return "\n\n".join(parts) + "\n"


def section(run: Run) -> str:
    """A stage's heading, tables, and what they were measured on."""
    told = SECTIONS[run.stage]
    parts = [f"## {told.title}", told.intro, _table(told, run.rows)]
    if any(row.processes for row in run.rows):
        parts += ["CPU by process: percent of one core, and µs a message.", _shares(run.rows)]
    parts.append(surroundings(run))
    return "\n\n".join(parts)


def surroundings(run: Run) -> str:
    """One line: machine, instant, commit, load, sizes, versions."""
    load = " ".join(f"{one:.1f}" for one in run.load_average)
    sizes = ", ".join(f"{name} {_size(value)}" for name, value in run.sizes.items())
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return (
        f"*{run.machine}; {run.begun_at[:16].replace('T', ' ')} UTC; commit {run.commit}; load "
        f"average at the start {load}; took {run.took_s:,.0f} s; {sizes}; {versions}.*"
    )


def _size(value: object) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_size, value))
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def _table(told: Section, rows: Sequence[Row]) -> str:
    columns = [
        column for column in told.columns if any(column.figure in row.figures for row in rows)
    ]
    lines = [
        ["", told.ratio, *(column.title for column in columns), ""],
        ["---", "---:", *("---:" for _ in columns), "---"],
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells = [_cell(row.figures.get(column.figure), column.digits) for column in columns]
        lines.append([row.name, ratio, *cells, row.note])
    return _lines(lines)


def _cell(figure: Spread | None, digits: int) -> str:
    if figure is None:
        return ""
    median = f"{figure.p50:,.{digits}f}"
    if figure.repeats == 1:
        return median
    return f"{median} ({figure.least:,.{digits}f}–{figure.most:,.{digits}f})"


def _shares(rows: Sequence[Row]) -> str:
    loads = [row for row in rows if row.processes]
    names = list(dict.fromkeys(name for row in loads for name in row.processes))
    lines = [["process", *(row.name for row in loads)], ["---", *("---:" for _ in loads)]]
    for name in names:
        found = [row.processes.get(name) for row in loads]
        lines.append(
            [
                name,
                *(
                    f"{one.percent_of_core:.0f} %, {one.us_per_message:.1f} µs" if one else ""
                    for one in found
                ),
            ]
        )
    sums = [row.processes.values() for row in loads]
    lines.append(
        [
            "sum",
            *(
                f"{sum(s.percent_of_core for s in one):.0f} %, "
                f"{sum(s.us_per_message for s in one):.1f} µs"
                for one in sums
            ),
        ]
    )
    return _lines(lines)


def _lines(cells: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
