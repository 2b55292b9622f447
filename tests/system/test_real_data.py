"""Real households' energy through the whole pipeline, against sums computed here from the files."""

import csv
import gzip
import io
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.usage import Quality
from tests.system.conftest import Pipeline, household_file

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

HOUSE_2, HOUSE_20 = "REFIT_House2_2014-03.csv.gz", "REFIT_House20_2014-09.csv.gz"
UCI = "uci_household_2007h1.zip"
PER_CENT_OF_A_PER_CENT = 1e-4
MINUTES_A_DAY = 1440


def refit_watts(path: Path, days: int | None = None) -> list[float]:
    """The mean power of each minute."""
    with gzip.open(path, "rt") as lines:
        watts = [float(row["Aggregate"]) for row in csv.DictReader(lines)]
    return watts if days is None else watts[: days * MINUTES_A_DAY]


def kwh_of(watts: list[float]) -> float:
    return sum(watts) / 60_000


def stored_kwh(pipeline: Pipeline, name: str, table: str) -> float:
    return (
        float(
            pipeline.value(
                f"SELECT sum(energy_uwh) FROM {table} JOIN channel USING (channel_id) "
                "JOIN device USING (device_id) WHERE device.name = %s",
                name,
            )
        )
        / 1e9
    )


@pytest.mark.parametrize(
    ("file", "published_kwh"), [(HOUSE_2, 290.4), (HOUSE_20, 316.2)], ids=["house-2", "house-20"]
)
def test_a_month_by_import_has_its_energy(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], file: str, published_kwh: float
):
    path = household_file(file)
    watts = refit_watts(path)
    name = f"import of {file}"
    done = pipeline.meterstream(
        "import", path, "--format", "refit", "--device", name, "--zone", "Europe/London"
    )
    exact = kwh_of(watts)
    assert round(exact, 1) == published_kwh
    assert done["rows"] == done["stored"] == len(watts)
    assert done["kwh"] == pytest.approx(exact, rel=PER_CENT_OF_A_PER_CENT)
    for table in ("usage_1m", "usage_15m", "usage_1h", "usage_1d", "usage_1w", "usage_1mo"):
        assert stored_kwh(pipeline, name, table) == pytest.approx(exact, rel=1e-9), table
    # The files count uniform minutes: with March's clock put forward, its last hour is in April.
    rows = pipeline.meterstream("usage", name, "--bucket", "1mo")
    assert sum(row["energy_wh"] for row in rows) == pytest.approx(exact * 1000, rel=1e-9)
    with capsys.disabled():
        print(f"\n{file} by import: {done['kwh']:.4f} kWh in {done['seconds']:.1f} s")


@pytest.mark.parametrize(
    ("file", "days"), [(HOUSE_2, 2), (HOUSE_20, 3)], ids=["house-2-two-days", "house-20-three"]
)
def test_days_by_replay_have_their_energy(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], file: str, days: int
):
    path = household_file(file)
    exact = kwh_of(refit_watts(path, days))
    name = f"replay of {file}"
    done = pipeline.meterstream(
        "replay", path, "--format", "refit", "--device", name, "--speed", "max", "--days", days
    )
    assert done["rows"] == days * MINUTES_A_DAY
    assert done["sent"] == done["stored"] == days * MINUTES_A_DAY + 1
    assert done["kwh"] == pytest.approx(exact, rel=PER_CENT_OF_A_PER_CENT)
    for table in ("usage_1m", "usage_15m", "usage_1h", "usage_1d"):
        assert stored_kwh(pipeline, name, table) == pytest.approx(exact, rel=1e-8), table
    end = datetime.fromisoformat(done["end"])
    assert abs(datetime.now(UTC) - end) < timedelta(minutes=5)
    with capsys.disabled():
        print(f"\n{file} by replay: {done['kwh']:.4f} kWh in {done['seconds']:.1f} s")


def uci_minutes(path: Path) -> tuple[list[float], set[int]]:
    """The kW that are there, and the numbers of the rows whose value is missing."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        said = [row["Global_active_power"] for row in csv.DictReader(io.TextIOWrapper(raw))]
    missing = {number for number, text in enumerate(said) if text.strip() in ("", "?")}
    return [float(text) for number, text in enumerate(said) if number not in missing], missing


FIRST_MINUTE = datetime(2006, 12, 31, 23, tzinfo=UTC)  # midnight in Paris
END = FIRST_MINUTE + timedelta(minutes=260_640)  # the last reading; its own minute stays open


def test_the_half_year_has_its_missing_minutes_as_gaps_and_importing_it_again_changes_nothing(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
):
    path = household_file(UCI)
    measured_kw, missing = uci_minutes(path)
    assert len(missing) == 3_771
    name = "the half-year"
    command = ("import", path, "--format", "uci", "--device", name, "--zone", "Europe/Paris")
    first = pipeline.meterstream(*command)
    assert (first["rows"], first["missing"], first["absent"]) == (260_640, 3_771, 0)
    exact = sum(measured_kw) / 60
    assert first["kwh"] == pytest.approx(exact, rel=PER_CENT_OF_A_PER_CENT)
    for table in ("usage_1m", "usage_15m", "usage_1h", "usage_1d", "usage_1w", "usage_1mo"):
        assert stored_kwh(pipeline, name, table) == pytest.approx(exact, rel=1e-7), table

    # A minute's reading is the instant of its end, so a missing one may hold the reading of the
    # minute before: it has a row then, without energy, and says that it is a gap.
    told = {
        (start - FIRST_MINUTE) // timedelta(minutes=1): (energy_uwh, quality)
        for start, energy_uwh, quality in pipeline.query(
            "SELECT window_start, energy_uwh, quality FROM usage_1m JOIN channel USING (channel_id)"
            " JOIN device USING (device_id) WHERE device.name = %s AND window_start < %s",
            name, END,
        )
    }  # fmt: skip
    silent = {
        minute for minute in range(260_640) if told.get(minute, (0, Quality.GAP))[1] == Quality.GAP
    }
    assert silent == missing
    assert {told[minute][0] for minute in missing if minute in told} <= {0}
    assert {told[minute][1] for minute in set(told) - missing} == {Quality.INTEGRATED}

    before = snapshot(pipeline, name)
    second = pipeline.meterstream(*command)
    assert snapshot(pipeline, name) == before
    assert (second["stored"], second["kwh"]) == (first["stored"], first["kwh"])
    with capsys.disabled():
        print(
            f"\n{UCI} by import: {first['kwh']:.4f} kWh in {first['seconds']:.1f} s, "
            f"again in {second['seconds']:.1f} s"
        )


def snapshot(pipeline: Pipeline, name: str) -> list[Any]:
    """Rows, energy and revisions of a device, table by table; and what contradicts a reading.

    Without the minute that begins with the last reading: it becomes a gap a minute later.
    """
    of = "JOIN channel USING (channel_id) JOIN device USING (device_id) WHERE device.name = %s"
    counted = [
        pipeline.query(
            f"SELECT count(*), sum(energy_uwh), sum(revision) FROM {table} {of} "
            "AND window_start < %s",
            name,
            END,
        )
        for table in ("usage_1m", "usage_15m")
    ]
    for table in ("usage_1h", "usage_1d", "usage_1w", "usage_1mo"):
        counted.append(
            pipeline.query(f"SELECT sum(energy_uwh) FROM {table} {of} AND energy_uwh > 0", name)
        )
    for table in ("readings", "gap_energy", "reading_conflict"):
        counted.append(pipeline.query(f"SELECT count(*) FROM {table} {of}", name))
    return counted
