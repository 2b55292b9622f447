"""A trace as JSON shows it."""

from base64 import b64encode
from datetime import tzinfo

from infra.tracing.bucket import BucketTrace, TracedReading, TracedSegment
from infra.tracing.raw_records import RawRecord
from schemas.reading import VALUE_NAMES
from schemas.units import MINUTE_US, UWH_PER_WH
from schemas.usage import Quality, Why
from sinks.trace_rows import Changed
from sinks.usage_windows import GapRecord, MinuteRecord
from streams.repair_words import at_us, register_name, repair_of
from streams.repair_words import document as repair_document

Document = dict[str, object]


def document(trace: BucketTrace, zone: tzinfo) -> Document:
    """Instants are aware datetimes in `zone`, energies Wh to the µWh."""
    rows = trace.rows
    shares = zip(rows.gaps, trace.gap_shares, strict=True)
    return {
        "device_id": trace.device.device_id,
        "device": trace.device.name or trace.device.address,
        "address": trace.device.address,
        "channel": trace.channel,
        "bucket": _bucket(trace, zone),
        "adds_up": trace.adds_up,
        "minutes_follow": trace.minutes_follow,
        "minutes": [_minute(minute, changed, zone) for minute, changed in rows.minutes],
        "gaps": [_gap(gap, changed, share, zone) for (gap, changed), share in shares],
        "segments": [_segment(one, zone) for one in trace.segments],
        "repairs": [
            repair_document(trace.channel, repair_of(repair), zone) | {"changed_offset": offset}
            for repair, offset in rows.repairs
        ],
        "readings": [_reading(one, rows.part, zone) for one in trace.readings],
        "conflicts": [_reading(one, rows.part, zone) for one in trace.conflicts],
    }


def _bucket(trace: BucketTrace, zone: tzinfo) -> Document:
    rows, quarter = trace.rows, trace.rows.quarter
    assert quarter is not None
    return {
        "start": at_us(rows.start_us, zone),
        "end": at_us(rows.end_us, zone),
        "energy_wh": quarter.energy_uwh / UWH_PER_WH,
        "export_wh": quarter.export_uwh / UWH_PER_WH,
        "readings": quarter.readings,
        "quality": Quality(quarter.quality).name.lower(),
        "why": Why(quarter.why).name.lower(),
        "complete": quarter.complete,
        "revision": quarter.revision,
        "changed_at": quarter.changed_at.astimezone(zone),
    }


def _minute(minute: MinuteRecord, changed: Changed, zone: tzinfo) -> Document:
    return {
        "start": at_us(minute.start_us, zone),
        "end": at_us(minute.start_us + MINUTE_US, zone),
        "energy_wh": minute.energy_uwh / UWH_PER_WH,
        "export_wh": minute.export_uwh / UWH_PER_WH,
        "readings": minute.readings,
        "quality": Quality(minute.quality).name.lower(),
        "why": Why(minute.why).name.lower(),
        "revision": changed.revision,
        "changed_offset": changed.offset,
    }


def _gap(gap: GapRecord, changed: Changed, share: tuple[int, int], zone: tzinfo) -> Document:
    return {
        "start": at_us(gap.start_us, zone),
        "end": at_us(gap.end_us, zone),
        "energy_wh": gap.energy_uwh / UWH_PER_WH,
        "export_wh": gap.export_uwh / UWH_PER_WH,
        "bucket_energy_wh": share[0] / UWH_PER_WH,
        "bucket_export_wh": share[1] / UWH_PER_WH,
        "why": Why(gap.why).name.lower(),
        "revision": changed.revision,
        "changed_offset": changed.offset,
    }


def _segment(one: TracedSegment, zone: tzinfo) -> Document:
    return {
        "register": register_name(one.is_export),
        "start": at_us(one.segment.start_us, zone),
        "end": at_us(one.segment.end_us, zone),
        "before_wh": one.before_uwh / UWH_PER_WH,
        "after_wh": one.after_uwh / UWH_PER_WH,
        "energy_wh": one.segment.energy_uwh / UWH_PER_WH,
        "why": one.segment.why.name.lower(),
    }


def _reading(one: TracedReading, part: int, zone: tzinfo) -> Document:
    stored = one.reading
    said = zip(VALUE_NAMES, stored.values, strict=True)
    received = stored.received_us
    return {
        "measured_at": at_us(stored.measured_us, zone),
        "received_at": None if received is None else at_us(received, zone),
        "seq": stored.seq,
        "clock": None if stored.clock is None else stored.clock.name.lower(),
        "source": None if stored.source is None else stored.source.name.lower(),
        "values": {name: value for name, value in said if value is not None},
        "partition": part,
        "offset": stored.offset,
        "record": None if one.record is None else _record(one.record, zone),
        "missing": one.missing,
        "agrees": one.agrees,
    }


def _record(record: RawRecord, zone: tzinfo) -> Document:
    """`payload` is null where the bytes are not UTF-8; `payload_base64` is always exact."""
    try:
        text = record.value.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "key": record.key.decode(errors="replace"),
        "headers": {name: value.decode(errors="replace") for name, value in record.headers.items()},
        "appended_at": at_us(record.appended_us, zone),
        "bytes": len(record.value),
        "payload": text,
        "payload_base64": b64encode(record.value).decode(),
    }
