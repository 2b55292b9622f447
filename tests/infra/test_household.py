"""Files of household measurements: what is read of them, and what is refused."""

import gzip
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from infra.household import (
    FileRefused,
    FileReport,
    Minute,
    layout_named,
    read_file,
    read_minutes,
)
from infra.household.node import minute_uwh, node_named
from infra.household.register import MeterReading, meter_readings
from infra.household.survey import boot_of, interval_payload, survey_file

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "household"
LONDON = ZoneInfo("Europe/London")
REFIT, UCI = layout_named("refit"), layout_named("uci")
UCI_HEADER = (
    "index,Date,Time,Global_active_power,Global_reactive_power,Voltage,"
    "Global_intensity,Sub_metering_1,Sub_metering_2,Sub_metering_3"
)
MINUTE_US = 60_000_000


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is missing")
    return DATA / name


def lines_of(text: str) -> Iterator[tuple[str, bool]]:
    for line in text.splitlines(keepends=True):
        yield line.rstrip("\n"), line.endswith("\n")


def refit(*rows: str, end: str = "\n") -> str:
    return "\n".join(["Time,Aggregate,Kettle", *rows]) + end


def read(text: str, layout=REFIT, zone=LONDON) -> tuple[list[Minute], FileReport]:
    report = FileReport()
    return list(read_minutes(lines_of(text), layout, zone, report)), report


def us(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1_000_000)


# ---- the real files ----


@pytest.mark.parametrize(
    ("name", "rows", "kwh"),
    [
        ("REFIT_House2_2014-03.csv.gz", 44_640, 290.4),
        ("REFIT_House20_2014-09.csv.gz", 43_200, 316.2),
    ],
)
def test_a_refit_month_has_its_rows_and_its_energy(name: str, rows: int, kwh: float):
    report = FileReport()
    minutes = list(read_file(real(name), REFIT, LONDON, report))
    assert (report.rows, report.missing, report.absent, report.warnings) == (rows, 0, 0, [])
    assert sum(one.power_w or 0 for one in minutes) / 60_000 == pytest.approx(kwh, abs=0.05)


def test_the_uci_half_year_has_its_minutes_and_its_gaps_across_the_change_of_the_dates():
    report = FileReport()
    minutes = list(read_file(real("uci_household_2007h1.zip"), UCI, ZoneInfo("Etc/UTC"), report))
    assert (report.rows, report.missing, report.absent) == (260_640, 3_771, 0)
    assert report.warnings == []
    assert minutes[0] == Minute(2, us(2007, 1, 1), 2580.0, 241.97)
    assert minutes[-1].start_us == us(2007, 6, 30, 23, 59)
    assert minutes[-1].power_w == 2548.0


# ---- time ----


def test_the_zone_is_applied_to_the_first_row_only():
    # The clock of London goes forward at 01:00 on 2014-03-30; this file counts on uniformly.
    rows = [f"2014-03-{day} {hour:02}:00:00,100.0,0" for day in (29, 30, 31) for hour in range(24)]
    minutes, report = read(refit(*rows))
    assert minutes[0].start_us == us(2014, 3, 29)
    assert [b.start_us - a.start_us for a, b in pairwise(minutes)] == [60 * MINUTE_US] * (
        len(minutes) - 1
    )
    assert report.absent == 71 * 59


def test_a_file_that_begins_in_summer_is_an_hour_ahead_throughout():
    minutes, _ = read(refit("2014-09-01 00:00:00,1,0", "2014-12-01 00:00:00,1,0"))
    assert [one.start_us for one in minutes] == [us(2014, 8, 31, 23), us(2014, 11, 30, 23)]


def test_a_missing_row_is_no_row_and_its_minute_passes():
    minutes, report = read(refit("2014-03-01 00:00:00,60,0", "2014-03-01 00:03:00,90,0"))
    assert [one.start_us for one in minutes] == [us(2014, 3, 1), us(2014, 3, 1, 0, 3)]
    assert (report.rows, report.absent) == (2, 2)


def test_dates_are_day_first_with_years_of_two_or_four_digits():
    text = f"{UCI_HEADER}\n0,3/2/07,23:59:00,1,0,240,4,0,0,0\n1,4/2/2007,00:00:00,2,0,240,4,0,0,0\n"
    minutes, report = read(text, UCI, ZoneInfo("UTC"))
    assert [one.start_us for one in minutes] == [us(2007, 2, 3, 23, 59), us(2007, 2, 4)]
    assert report.absent == 0


@pytest.mark.parametrize("second", ["2014-03-01 00:05:00", "2014-03-01 00:04:00"])
def test_a_row_that_is_not_after_the_one_before_is_refused(second: str):
    with pytest.raises(FileRefused, match=r"line 3: .*uniform minutes"):
        read(refit("2014-03-01 00:05:00,1,0", f"{second},1,0", "2014-03-01 00:06:00,1,0"))


def test_a_row_between_two_minutes_is_refused():
    with pytest.raises(FileRefused, match=r"line 2: .*whole minute.*mend or remove"):
        read(refit("2014-03-01 00:05:30,1,0", "2014-03-01 00:06:00,1,0"))


# ---- values ----


@pytest.mark.parametrize("text", ["?", "", " "])
def test_a_missing_value_is_a_gap_and_not_a_zero(text: str):
    minutes, report = read(refit("2014-03-01 00:00:00,0,0", f"2014-03-01 00:01:00,{text},0"))
    assert [one.power_w for one in minutes] == [0.0, None]
    assert (report.missing, report.measured) == (1, 1)


@pytest.mark.parametrize("text", ["-1", "250000", "nan", "inf"])
def test_an_absurd_value_is_a_gap_with_one_warning_for_all(text: str):
    minutes, report = read(
        refit(*(f"2014-03-01 00:0{i}:00,{text},0" for i in range(3)), "2014-03-01 00:03:00,5,0")
    )
    assert [one.power_w for one in minutes] == [None, None, None, 5.0]
    assert (report.absurd, len(report.warnings)) == (3, 1)
    assert "line 2" in report.warnings[0]


# ---- broken files ----


@pytest.mark.parametrize("last", ["2014-03-01 00:0", "2014-03-01 00:01:00,5", "2014-03-01 00:01:0"])
def test_a_cut_last_line_is_reported_and_skipped(last: str):
    minutes, report = read(refit("2014-03-01 00:00:00,60,0", last, end=""))
    assert len(minutes) == 1
    assert report.cut_line == 3
    assert "line 3" in report.warnings[0]


def test_a_last_line_without_its_end_is_taken_when_it_is_whole():
    minutes, report = read(refit("2014-03-01 00:00:00,60,0", end=""))
    assert len(minutes) == 1
    assert report.warnings == []


@pytest.mark.parametrize(
    "row", ["garbage", "2014-03-01 00:01:00,abc,0", "2014-13-01 00:01:00,1,0", "1,2,3,4"]
)
def test_garbage_in_the_middle_is_refused_with_its_line_and_a_remedy(row: str):
    with pytest.raises(FileRefused, match=r"line 3: not a row: .*mend or remove the line"):
        read(refit("2014-03-01 00:00:00,60,0", row, "2014-03-01 00:02:00,60,0"))


@pytest.mark.parametrize(
    ("header", "layout"),
    [("Time,Power", REFIT), ("Unix,Aggregate", REFIT), (UCI_HEADER, REFIT), ("Date,Time,W", UCI)],
)
def test_an_unknown_layout_is_refused_with_what_was_expected(header: str, layout):
    with pytest.raises(FileRefused, match=f"line 1: .* a {layout.name} file has .*Time"):
        read(f"{header}\n1,2\n", layout)


@pytest.mark.parametrize("text", ["", "Time,Aggregate\n", "Time,Aggregate\n\n"])
def test_an_empty_file_is_refused(text: str):
    with pytest.raises(FileRefused):
        read(text)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(FileRefused, match="refit, uci"):
        layout_named("csv")


# ---- wrappings ----

TEXT = refit(*(f"2014-03-01 {i // 60:02}:{i % 60:02}:00,{i}.5,0" for i in range(1000)))


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, TEXT)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
        gzip.compress(TEXT.encode()),
        gzip.compress(TEXT[:500].encode()) + gzip.compress(TEXT[500:].encode()) + bytes(64),
        zipped("data/house.csv", "README.md"),
    ],
    ids=["plain", "windows", "gzip", "two members", "zip"],
)
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path: Path, content: bytes):
    path = tmp_path / "house"
    path.write_bytes(content)
    report = FileReport()
    minutes = list(read_file(path, REFIT, LONDON, report))
    assert [one.power_w for one in minutes] == [i + 0.5 for i in range(1000)]
    assert report.warnings == []


def test_a_cut_gzip_gives_what_it_holds_and_says_so(tmp_path: Path):
    path = tmp_path / "house.csv.gz"
    whole = gzip.compress(TEXT.encode())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    report = FileReport()
    minutes = list(read_file(path, REFIT, LONDON, report))
    assert 400 < len(minutes) < 1000
    assert [one.power_w for one in minutes] == [i + 0.5 for i in range(len(minutes))]
    assert "stop before their end" in report.warnings[0]


@pytest.mark.parametrize(
    "content",
    [zipped("a.csv")[:-40], zipped("a.csv", "b.csv"), zipped("a.pdf"), b"\x1f\x8bnonsense"],
    ids=["cut zip", "two tables", "no table", "damaged gzip"],
)
def test_a_wrapping_that_cannot_be_opened_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "house.bin"
    path.write_bytes(content)
    with pytest.raises(FileRefused, match=r"house\.bin: "):
        list(read_file(path, REFIT, LONDON, FileReport()))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(FileRefused, match="No such file"):
        list(read_file(tmp_path / "none.csv", REFIT, LONDON, FileReport()))


# ---- what becomes of the rows ----


def test_the_register_grows_by_what_flowed_and_stands_still_over_a_gap():
    rows = [Minute(2, 0, 90.0, None), Minute(3, 60_000_000, 30.0, None)]
    rows += [Minute(4, 120_000_000, None, None), Minute(5, 240_000_000, 6.0, None)]
    assert list(meter_readings(rows, 7)) == [
        MeterReading(0, None, 7),
        MeterReading(60_000_000, 90.0, 1_500_007),
        MeterReading(120_000_000, 30.0, 2_000_007),
        MeterReading(240_000_000, None, 2_000_007),
        MeterReading(300_000_000, 6.0, 2_100_007),
    ]


def test_the_register_loses_nothing_to_rounding():
    rows = [Minute(i, i * 60_000_000, 1 / 3, None) for i in range(60_000)]
    *_, last = meter_readings(rows)
    assert last.import_total_uwh == 60_000 * 333_333 // 60


def test_an_interval_says_when_it_ends_and_what_flowed():
    payload = interval_payload(Minute(17, us(2014, 3, 1), 118.0, 241.5), "b00t")
    assert payload == (
        b'{"v":1,"boot":"b00t","seq":17,"first":17,"ts":1393632060,"channels":{"total":'
        b'{"power_w":118.0,"voltage_v":241.5,"interval_s":60,"interval_import_wh":1.966667}}}'
    )
    assert minute_uwh(118.0) == 1_966_667


def test_the_same_file_for_the_same_device_is_the_same_outbox(tmp_path: Path):
    path = tmp_path / "house.csv"
    path.write_text(TEXT)
    first, second = (survey_file(path, REFIT, LONDON) for _ in range(2))
    assert boot_of(first.digest, "a") == boot_of(second.digest, "a") != boot_of(first.digest, "b")
    assert first.energy_uwh == sum(minute_uwh(i + 0.5) for i in range(1000))
    assert first.end_us - first.start_us == 1000 * MINUTE_US


@pytest.mark.parametrize(
    ("name", "slug"),
    [("House 2", "house-2"), ("  Küche / Herd ", None), ("บ้าน", None), ("a" * 90, "a" * 40)],
)
def test_a_name_makes_an_address(name: str, slug: str | None):
    node = node_named(name)
    assert node == node_named(name)
    assert node.node.isascii()
    assert "/" not in node.node
    if slug is not None:
        assert node.address == f"homesync:home-{slug}/{slug}"
