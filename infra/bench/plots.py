"""Plots of the benchmark's document, as SVG that is the same for the same figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.bench.results import Document, Row, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN = 7.5
OURS, OTHERS = "#0072B2", "#999999"
PROCESS_COLOURS = (
    "#999999", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#F0E442", "#D55E00", "#CC79A7",
    "#000000", "#882255", "#44AA99", "#DDCC77",
)  # fmt: skip
_SETTINGS: Any = {
    "svg.hashsalt": "meterstream",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def draw(document: Document, folder: Path) -> list[Path]:
    """Draw what the document has figures for; returns the files."""
    import matplotlib

    matplotlib.use("svg")
    found = []
    with matplotlib.rc_context(_SETTINGS):
        for name, stages, plot in (
            ("stream", ("stream",), _stream),
            ("sink", ("sink",), _sink),
            ("end-to-end", ("end-to-end",), _end_to_end),
            ("growth", ("growth-devices", "growth-stored"), _growth),
        ):
            runs = [document.stages[stage] for stage in stages if stage in document.stages]
            if runs:
                found.append(plot(runs, folder / f"{name}.svg"))
    return found


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path


def _figure(height_in: float, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, figsize=(WIDTH_IN, height_in), squeeze=False)


def _bars(axes: "Axes", rows: Sequence[Row], figure: str, title: str) -> None:
    """Horizontal bars, the first row on top; whiskers from the smallest to the largest."""
    shown = [row for row in rows if figure in row.figures]
    spreads = [row.figures[figure] for row in shown]
    places = range(len(shown))
    axes.barh(
        places,
        [one.p50 for one in spreads],
        xerr=[
            [one.p50 - one.least for one in spreads],
            [one.most - one.p50 for one in spreads],
        ],
        color=[OURS if row.name.startswith(("meterstream", "ours")) else OTHERS for row in shown],
        ecolor="#333333",
        capsize=3,
    )
    room = max(one.most for one in spreads) * 0.015
    for place, one in zip(places, spreads, strict=True):
        axes.text(one.most + room, place, f"{one.p50:,.0f}", va="center")
    axes.set_yticks(places, [row.name for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, max(one.most for one in spreads) * 1.18)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(title, loc="left")


def _stream(runs: Sequence[Run], path: Path) -> Path:
    figure, ((axes,),) = _figure(0.6 + 0.5 * len(runs[0].rows))
    _bars(axes, runs[0].rows, "readings_per_s", "Stream: readings/s (peers: windows only)")
    return _save(figure, path)


def _sink(runs: Sequence[Run], path: Path) -> Path:
    figure, ((axes,),) = _figure(0.6 + 0.45 * len(runs[0].rows))
    _bars(axes, runs[0].rows, "rows_per_s", "Sink: rows/s into the table of readings")
    return _save(figure, path)


def _end_to_end(runs: Sequence[Run], path: Path) -> Path:
    """CPU a message, piled up by process; one bar a load."""
    rows = [row for row in runs[0].rows if row.processes]
    names = list(dict.fromkeys(name for row in rows for name in row.processes))
    figure, ((axes,),) = _figure(1.2 + 0.5 * len(rows))
    begins = [0.0] * len(rows)
    for number, name in enumerate(names):
        widths = [
            row.processes[name].us_per_message if name in row.processes else 0.0 for row in rows
        ]
        colour = PROCESS_COLOURS[number % len(PROCESS_COLOURS)]
        axes.barh(range(len(rows)), widths, left=begins, color=colour, label=name)
        begins = [begin + width for begin, width in zip(begins, widths, strict=True)]
    for place, total in enumerate(begins):
        axes.text(total * 1.01, place, f"{total:,.0f}", va="center")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(begins, default=1.0) * 1.1)
    axes.set_title("End to end: CPU µs a message, by process", loc="left")
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=5, frameon=False)
    return _save(figure, path)


_COSTS = (
    ("all_us_per_reading", "all", "#000000", "o"),
    ("cpu_us_per_reading", "workers", "#0072B2", "s"),
    ("postgres_us_per_reading", "PostgreSQL", "#D55E00", "^"),
    ("kafka_us_per_reading", "Kafka", "#009E73", "v"),
)


def _growth(runs: Sequence[Run], path: Path) -> Path:
    """CPU a reading against devices, and against stored rows."""
    figure, (panels,) = _figure(3.4, len(runs))
    highest = max(row.figures["all_us_per_reading"].most for run in runs for row in run.rows)
    for axes, run in zip(panels, runs, strict=True):
        sizes = [int(row.name.split()[0].replace(",", "")) for row in run.rows]
        for name, label, colour, marker in _COSTS:
            costs = [row.figures[name].p50 for row in run.rows]
            axes.plot(sizes, costs, color=colour, marker=marker, label=label)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [_short(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(0, highest * 1.1)
        axes.set_xlabel("devices" if run.stage == "growth-devices" else "rows already stored")
    panels[0].set_ylabel("CPU µs a reading")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=4,
        frameon=False,
    )
    figure.suptitle("Growth: what a reading costs", x=0.02, ha="left")
    return _save(figure, path)


def _short(size: int) -> str:
    """10000000 is "10 M"."""
    for unit, name in ((1_000_000, " M"), (1000, " k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)
