"""What a repair of a register was, in people's words and as a document. Pure."""

from datetime import UTC, datetime, timedelta, tzinfo

from schemas.units import UWH_PER_WH
from schemas.usage import Why
from sinks.register_repairs import RepairRecord
from streams.registers import Repair

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def repair_of(row: RepairRecord) -> Repair:
    return Repair(
        row.at_us,
        row.start_us,
        row.end_us,
        Why(row.why),
        row.is_export,
        row.energy_uwh,
        row.before_uwh,
        row.after_uwh,
    )


def register_name(is_export: bool) -> str:
    return "export" if is_export else "import"


def told(repair: Repair) -> str:
    """One sentence: what was seen, and how much was counted."""
    register = f"the {register_name(repair.is_export)} register"
    before, after = wh(repair.before_uwh), wh(repair.after_uwh)
    counted = wh(repair.energy_uwh)
    match repair.why:
        case Why.REGISTER_ROLLOVER:
            return (
                f"{register} passed the end of its span, from {before} to {after}, "
                f"and was counted on: {counted}"
            )
        case Why.REGISTER_RESET:
            hidden_uwh = repair.energy_uwh - repair.after_uwh
            text = f"{register} began anew at 0, from {before} to {after}: {counted} counted"
            return f"{text}, {wh(hidden_uwh)} of it known by power" if hidden_uwh > 0 else text
        case Why.REGISTER_RESTORED:
            return (
                f"{register} went back from {before} to an older value, {after}, and is counted on "
                f"from there; meanwhile {counted} by power"
            )
        case Why.REGISTER_SPIKE:
            return (
                f"{register} showed {after} after {before}, which the readings before and after "
                "contradict: passed over, nothing counted"
            )
    return (
        f"{register} went from {before} to {after}, as another meter's would, and is counted on "
        f"from there; meanwhile {counted} by power"
    )


def document(channel: str, repair: Repair, zone: tzinfo = UTC) -> dict[str, object]:
    """As JSON shows it; instants are aware datetimes in `zone`."""
    return {
        "channel": channel,
        "register": register_name(repair.is_export),
        "why": repair.why.name.lower(),
        "at": at_us(repair.at_us, zone),
        "start": at_us(repair.start_us, zone),
        "end": at_us(repair.end_us, zone),
        "before_wh": repair.before_uwh / UWH_PER_WH,
        "after_wh": repair.after_uwh / UWH_PER_WH,
        "energy_wh": repair.energy_uwh / UWH_PER_WH,
        "added_wh": repair.added_uwh / UWH_PER_WH,
        "text": told(repair),
    }


def wh(energy_uwh: int) -> str:
    """Wh with three decimals at most: `1,005 Wh`, `0.5 Wh`."""
    whole, thousandths = divmod((energy_uwh + 500) // 1000, 1000)
    decimals = f".{thousandths:03d}".rstrip("0").rstrip(".")
    return f"{whole:,}{decimals} Wh"


def at_us(us: int, zone: tzinfo) -> datetime:
    """The instant `us` after the epoch, in a zone."""
    return (_EPOCH + timedelta(microseconds=us)).astimezone(zone)
