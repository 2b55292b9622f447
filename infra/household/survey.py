"""A file read through once, so that a bad row is found before anything of it is written."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from infra.household.errors import FileRefused
from infra.household.layouts import Layout
from infra.household.minutes import FileReport, Minute, read_file
from infra.household.node import INTERVAL_S, INTERVAL_US, minute_uwh, wh_text
from schemas.units import SECOND_US


@dataclass(frozen=True)
class Survey:
    path: Path
    layout: Layout
    zone: ZoneInfo
    digest: str
    start_us: int  # of the first row
    end_us: int  # of the last row's minute
    energy_uwh: int
    report: FileReport

    def minutes(self) -> Iterator[Minute]:
        return read_file(self.path, self.layout, self.zone, FileReport())


def survey_file(path: Path, layout: Layout, zone: ZoneInfo) -> Survey:
    """Raises FileRefused."""
    report = FileReport()
    start_us = end_us = energy_uwh = 0
    for minute in read_file(path, layout, zone, report):
        if report.rows == 1:
            start_us = minute.start_us
        end_us = minute.start_us + INTERVAL_US
        if minute.power_w is not None:
            energy_uwh += minute_uwh(minute.power_w)
    if not report.measured:
        raise FileRefused(f"{path}: no row has a value; is {layout.name} the right format?")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Survey(path, layout, zone, digest, start_us, end_us, energy_uwh, report)


def boot_of(digest: str, address: str) -> str:
    """The same file for the same device is the same outbox: importing it again adds nothing."""
    return hashlib.sha256(f"{digest} {address}".encode()).hexdigest()[:16]


def interval_payload(minute: Minute, boot: str) -> bytes:
    """A homesync payload: `seq` is the row's line in the file, `ts` the end of its minute."""
    assert minute.power_w is not None
    voltage = "" if minute.voltage_v is None else f'"voltage_v":{minute.voltage_v!r},'
    return (
        f'{{"v":1,"boot":"{boot}","seq":{minute.line},"first":{minute.line},'
        f'"ts":{(minute.start_us + INTERVAL_US) // SECOND_US},"channels":{{"total":{{'
        f'"power_w":{minute.power_w!r},{voltage}"interval_s":{INTERVAL_S},'
        f'"interval_import_wh":{wh_text(minute_uwh(minute.power_w))}}}}}}}'
    ).encode()
