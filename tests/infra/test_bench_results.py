"""What is made of a benchmark's figures: ratios, spreads, one document of all runs, its text."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from infra.bench import document, plots, results
from infra.bench.cpu import CpuLog
from infra.bench.results import Document, Row, Run, Share, Taken
from infra.bench.stages import Sizes, Stage
from infra.cli import bench


def of(name: str, **figures: float) -> Row:
    return Row(name, {figure: results.spread([value]) for figure, value in figures.items()})


def run(stage: str, *rows: Row, commit: str = "abc1234") -> Run:
    return Run(
        stage=stage,
        commit=commit,
        begun_at="2026-11-21T10:00:00+00:00",
        took_s=61.5,
        machine="2 × a processor",
        load_average=(0.25, 0.5, 1.0),
        versions={"psycopg": "3.3.9"},
        sizes={"readings": 1_000_000, "devices": [1000, 100_000], "seconds": 300.0},
        ok=True,
        rows=list(rows),
    )


def growth(stage: str, unit: str, *costs: tuple[int, float]) -> Run:
    rows = [
        of(
            f"{size:,} {unit}",
            all_us_per_reading=cost,
            cpu_us_per_reading=cost * 0.5,
            postgres_us_per_reading=cost * 0.4,
            kafka_us_per_reading=cost * 0.1,
            readings_per_s=1e6 / cost,
        )
        for size, cost in costs
    ]
    return run(stage, *results.costing_times(rows, rows[0].name, "all_us_per_reading"))


@pytest.fixture
def whole() -> Document:
    stream = [
        of("meterstream, 1 worker", readings_per_s=90_000),
        of("quixstreams", readings_per_s=15_000),
        Row("bytewax", note="left out: bytewax_job.py is missing"),
    ]
    sink = [of("ours: columns, COPY", rows_per_s=99), of("COPY of ready bytes", rows_per_s=100)]
    load = Row(
        "single-reading messages",
        {"messages_per_s": results.spread([14_997.0])},
        processes={"uplink": Share(21.0, 14.0), "postgres": Share(30.5, 20.4)},
    )
    runs = (
        run("stream", *results.faster_than(stream, "quixstreams", "readings_per_s")),
        run("sink", *results.faster_than(sink, "COPY of ready bytes", "rows_per_s")),
        run("end-to-end", load),
        growth("growth-devices", "devices", (1000, 20.0), (100_000, 22.0)),
        growth("growth-stored", "rows stored", (1_000_000, 20.0), (50_000_000, 21.0)),
    )
    return Document({one.stage: one for one in runs})


# ---------------------------------------------------------------- figures


def test_repeats_of_a_name_become_one_row_with_median_and_extremes():
    taken = [
        Taken("a", {"rows_per_s": 10.0}),
        Taken("b", {"rows_per_s": 7.0}),
        Taken("a", {"rows_per_s": 40.0}),
        Taken("b", {}, "left out"),
        Taken("a", {"rows_per_s": 30.0}, "the last note"),
    ]

    first, second = results.rows_of(taken)

    assert first == Row(
        "a", {"rows_per_s": results.Spread(30.0, 10.0, 40.0, 3)}, note="the last note"
    )
    assert second == Row("b", {"rows_per_s": results.Spread(7.0, 7.0, 7.0, 1)}, note="left out")


def test_twice_as_fast_is_2_and_half_the_cost_is_2():
    fast, slow = of("fast", rows_per_s=200, cpu_us=5), of("slow", rows_per_s=100, cpu_us=10)

    by_rate = results.faster_than([fast, slow], "slow", "rows_per_s")
    by_saving = results.cheaper_than([fast, slow], "slow", "cpu_us")
    by_cost = results.costing_times([fast, slow], "fast", "cpu_us")

    assert [(row.ratio, row.ratio_to) for row in by_rate] == [(2.0, "slow"), (1.0, "slow")]
    assert [row.ratio for row in by_saving] == [2.0, 1.0]
    assert [row.ratio for row in by_cost] == [1.0, 2.0]


@pytest.mark.parametrize("reference", [[], [Row("slow", note="left out")]])
def test_without_the_reference_nothing_has_a_ratio(reference: list[Row]):
    rows = results.faster_than([of("fast", rows_per_s=200), *reference], "slow", "rows_per_s")

    assert [row.ratio for row in rows] == [None] * len(rows)
    assert rows[0].figures["rows_per_s"].p50 == 200


def test_a_row_that_was_left_out_gets_no_ratio():
    rows = [of("slow", rows_per_s=100), Row("missing", note="left out")]

    assert results.faster_than(rows, "slow", "rows_per_s")[1] == rows[1]


def test_a_new_run_replaces_its_stage_only():
    old = Document({"sink": run("sink", commit="old"), "stream": run("stream", commit="old")})
    new = Document({"sink": run("sink", commit="new"), "uplink": run("uplink", commit="new")})

    merged = results.merged(old, new)

    commits = {stage: one.commit for stage, one in merged.stages.items()}
    assert commits == {"stream": "old", "sink": "new", "uplink": "new"}


def test_cpu_between_two_readings_of_a_clock_is_shared_out_by_time():
    log = CpuLog({})
    log._clocks = {"worker": lambda: 0.0}
    log._at_s = [10.0, 20.0, 30.0]
    log._read_s = [{"worker": 1.0}, {"worker": 3.0}, {"worker": 4.0}]

    #   10 s      20 s      30 s
    #   1.0 ------ 3.0 ----- 4.0
    #        15 s       25 s
    assert log.used_s(15.0, 25.0) == {"worker": pytest.approx(1.5)}
    assert log.used_s(0.0, 99.0) == {"worker": 3.0}


def test_a_process_that_ends_keeps_the_cpu_it_had():
    clocks = iter([5.0, 0.0])
    with CpuLog({"gone": lambda: next(clocks)}, period_s=60) as log:
        pass

    assert log.used_s(0.0, 1e12) == {"gone": 0.0}


# ---------------------------------------------------------------- the document


def test_the_document_that_is_written_is_read_again(whole: Document, tmp_path: Path):
    document.publish(whole, tmp_path)

    assert document.kept(tmp_path) == whole
    assert document.kept(tmp_path / "nothing") == Document()


def test_ratios_come_first_and_what_is_left_out_says_why(whole: Document):
    text = document.text(whole)

    assert "| meterstream, 1 worker | 6.00 | 90,000 |  |" in text
    assert "| bytewax |  |  | left out: bytewax_job.py is missing |" in text
    assert "| 100,000 devices | 1.10 | 22.0 | 11.0 | 8.8 | 2.2 | 45,455 |  |" in text


def test_repeats_show_their_extremes():
    row = Row("stock paho, shelly", {"cpu_us_per_message": results.Spread(150.04, 99.0, 201.0, 3)})

    assert "| 150.0 (99.0–201.0) |" in document.section(run("uplink", row))


def test_each_stage_says_on_what_and_when_it_ran(whole: Document):
    line = document.surroundings(whole.stages["sink"])

    assert line == (
        "*2 × a processor; 2026-11-21 10:00 UTC; commit abc1234; load average at the start "
        "0.2 0.5 1.0; took 62 s; readings 1,000,000, devices 1,000/100,000, seconds 300; "
        "psycopg 3.3.9.*"
    )


def test_the_cpu_of_processes_adds_up(whole: Document):
    text = document.section(whole.stages["end-to-end"])

    assert "| uplink | 21 %, 14.0 µs |" in text
    assert "| sum | 52 %, 34.4 µs |" in text


def test_every_stage_of_the_command_has_its_section():
    assert set(document.SECTIONS) == {stage.value for stage in Stage}


# ---------------------------------------------------------------- plots


def test_plots_are_the_same_for_the_same_figures(whole: Document, tmp_path: Path):
    def drawn(folder: Path) -> dict[str, str]:
        folder.mkdir()
        files = plots.draw(whole, folder)
        return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in files}

    first, second = drawn(tmp_path / "first"), drawn(tmp_path / "second")

    assert first == second
    assert set(first) == {"stream.svg", "sink.svg", "end-to-end.svg", "growth.svg"}


def test_a_plot_names_what_it_shows(whole: Document, tmp_path: Path):
    plots.draw(whole, tmp_path)

    text = " ".join(ElementTree.parse(tmp_path / "stream.svg").getroot().itertext())
    assert "meterstream, 1 worker" in text
    assert "90,000" in text
    assert "bytewax" not in text  # it has no figure


def test_only_what_was_measured_is_drawn(whole: Document, tmp_path: Path):
    one = Document({"growth-stored": whole.stages["growth-stored"]})

    assert [path.name for path in plots.draw(one, tmp_path)] == ["growth.svg"]
    assert "plots/growth.svg" in document.text(one)


# ---------------------------------------------------------------- the command


def test_growth_is_asked_for_by_name():
    assert bench.wanted_stages(None) == [
        Stage.UPLINK, Stage.STREAM, Stage.SINK, Stage.RATING, Stage.END_TO_END, Stage.COMMANDS,
    ]  # fmt: skip
    asked = [bench.Wanted.GROWTH, bench.Wanted.SINK]
    assert bench.wanted_stages(asked) == [Stage.SINK, Stage.GROWTH_DEVICES, Stage.GROWTH_STORED]


def test_growth_is_repeated_only_when_asked_to():
    assert Sizes().repeats_of(Stage.SINK) == 3
    assert Sizes().repeats_of(Stage.GROWTH_STORED) == 1
    assert Sizes(repeats=2).repeats_of(Stage.GROWTH_STORED) == 2


def test_rendering_measures_nothing(
    whole: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / document.DATA).write_text(results.as_json(whole))
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    app = typer.Typer()
    bench.register(app)

    ended = CliRunner().invoke(app, ["--render"])

    assert ended.exit_code == 0, ended.output
    assert (tmp_path / document.TEXT).read_text() == document.text(whole)
