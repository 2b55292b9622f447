"""What a benchmark measured: rows of figures with their spread, runs of a stage, the document.

Every figure's name ends in its unit. A ratio is that of medians.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Median, smallest and largest of the repeats."""

    p50: float
    least: float
    most: float
    repeats: int


class Share(msgspec.Struct, frozen=True):
    """What a process took of the CPU while a load ran."""

    percent_of_core: float
    us_per_message: float


class Row(msgspec.Struct, frozen=True):
    """One thing measured. Without figures it was left out, and `note` says why."""

    name: str
    figures: dict[str, Spread] = {}
    ratio: float | None = None
    ratio_to: str | None = None
    note: str = ""
    processes: dict[str, Share] = {}


class Run(msgspec.Struct, frozen=True):
    """One run of one stage: where, when and on what; the load average is that of its start."""

    stage: str
    commit: str
    begun_at: str
    took_s: float
    machine: str
    load_average: tuple[float, float, float]
    versions: dict[str, str]
    sizes: dict[str, object]
    ok: bool
    rows: list[Row]


class Document(msgspec.Struct, frozen=True):
    """The last run of each stage, by its name."""

    stages: dict[str, Run] = {}


@dataclass(frozen=True)
class Taken:
    """The figures of one thing in one repeat."""

    name: str
    figures: Mapping[str, float]
    note: str = ""


def spread(values: Sequence[float]) -> Spread:
    p50, least, most = statistics.median(values), min(values), max(values)
    return Spread(round(p50, 3), round(least, 3), round(most, 3), len(values))


def rows_of(taken: Sequence[Taken]) -> list[Row]:
    """One row a name, in the order in which the names first come."""
    by_name: dict[str, list[Taken]] = {}
    for one in taken:
        by_name.setdefault(one.name, []).append(one)
    return [
        Row(
            name,
            {
                figure: spread([one.figures[figure] for one in repeats if figure in one.figures])
                for figure in dict.fromkeys(key for one in repeats for key in one.figures)
            },
            note=repeats[-1].note,
        )
        for name, repeats in by_name.items()
    ]


def faster_than(rows: Sequence[Row], reference: str, figure: str) -> list[Row]:
    """The rows with their ratio of a rate to the reference's: 2 is twice as fast."""
    return _compared(rows, reference, figure, lambda own, other: own / other)


def cheaper_than(rows: Sequence[Row], reference: str, figure: str) -> list[Row]:
    """The rows with the reference's cost to theirs: 2 is half the cost."""
    return _compared(rows, reference, figure, lambda own, other: other / own)


def costing_times(rows: Sequence[Row], reference: str, figure: str) -> list[Row]:
    """The rows with their cost to the reference's: 2 is twice the cost."""
    return _compared(rows, reference, figure, lambda own, other: own / other)


def _compared(
    rows: Sequence[Row], reference: str, figure: str, ratio: Callable[[float, float], float]
) -> list[Row]:
    other = next((row for row in rows if row.name == reference), None)
    if other is None or figure not in other.figures:
        return list(rows)
    return [
        msgspec.structs.replace(
            row,
            ratio=round(ratio(row.figures[figure].p50, other.figures[figure].p50), 3),
            ratio_to=reference,
        )
        if figure in row.figures
        else row
        for row in rows
    ]


def merged(old: Document, new: Document) -> Document:
    """The new runs, and the old ones of all other stages."""
    return Document({**old.stages, **new.stages})


def load(path: Path) -> Document:
    """The document that a file holds; an empty one where there is none."""
    if not path.exists():
        return Document()
    return msgspec.json.decode(path.read_bytes(), type=Document)


def as_json(document: Document) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"
