"""What stands on a bill's page, in Thai and in English."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Language(StrEnum):
    THAI = "th"
    ENGLISH = "en"


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language; `lines` names lines of the bill by kind, then by name."""

    months: tuple[str, ...]
    year_offset: int
    texts: dict[str, str]
    lines: dict[str, str]

    def __getitem__(self, key: str) -> str:
        return self.texts[key]

    def line(self, kind: str, name: str) -> str:
        """A line that no language knows keeps its own name, behind the word for its kind."""
        known = self.lines.get(f"{kind} {name}") or self.lines.get(name)
        if known is not None:
            return known
        word = self.lines.get(f"{kind} all") or self.lines.get(kind)
        own = name.removeprefix(f"{kind} ")
        own = self.lines.get(own, own)
        return own if word is None else f"{word}, {own}"

    def month(self, text: str) -> str:
        """`2026-02` in words."""
        year, _, month = text.partition("-")
        return f"{self.months[int(month) - 1]} {int(year) + self.year_offset}"

    def day(self, day: date) -> str:
        return f"{day.day} {self.months[day.month - 1]} {day.year + self.year_offset}"


ENGLISH = Words(
    months=(
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ),
    year_offset=0,
    texts={
        "title": "Electricity bill",
        "draft": "DRAFT: the cycle is not billed yet",
        "version": "Version",
        "issued": "issued",
        "home": "Home",
        "month": "Billing month",
        "cycle": "Cycle",
        "until": "to",
        "days": "days",
        "tariff": "Tariff",
        "meter": "Meter",
        "energy": "Energy",
        "item": "Item",
        "quantity": "Quantity",
        "price": "Price",
        "amount": "Amount",
        "above": "above",
        "subtotal": "Before VAT",
        "before_tax": "Before tax",
        "total": "Total",
        "split": "When the energy was used",
        "by_day": "Energy by day (kWh)",
        "quality": "How the energy is known",
        "measured": "measured",
        "interpolated": "interpolated from the register",
        "estimated": "estimated",
        "gap": "not measured, or only in part",
        "hours": "hours",
        "gap_note": "Time that nobody measured costs nothing.",
        "adjustment": "What this version changes",
        "before": "Before",
        "now": "Now",
        "difference": "Difference",
        "holidays": "Holidays",
        "checksum": "SHA-256 of the bill's canonical JSON",
        "not_legal": "Computed by Meterstream from the home's own meter; not the utility's bill.",
    },
    lines={
        "energy all": "Energy charge",
        "energy spot": "Energy charge, spot prices",
        "energy on_peak": "Energy charge, on peak",
        "energy off_peak": "Energy charge, off peak",
        "on_peak": "On peak",
        "off_peak": "Off peak",
        "ft": "Fuel adjustment (Ft)",
        "service": "Service charge",
        "demand": "Demand charge",
        "minimum": "Up to the minimum bill",
        "export": "Credit for exported energy",
        "vat": "Value added tax (VAT)",
        "tax": "Tax",
        "month": "month",
        "day": "days",
    },
)  # fmt: skip

THAI = Words(
    months=(
        "มกราคม", "กุมภาพันธ์", "มีนาคม", "เมษายน", "พฤษภาคม", "มิถุนายน", "กรกฎาคม", "สิงหาคม",
        "กันยายน", "ตุลาคม", "พฤศจิกายน", "ธันวาคม",
    ),
    year_offset=543,
    texts={
        "title": "ใบแจ้งค่าไฟฟ้า",
        "draft": "ฉบับร่าง: ยังไม่ได้ออกบิลสำหรับรอบนี้",
        "version": "ฉบับที่",
        "issued": "ออกเมื่อ",
        "home": "บ้าน",
        "month": "ประจำเดือน",
        "cycle": "รอบบิล",
        "until": "ถึง",
        "days": "วัน",
        "tariff": "ประเภทผู้ใช้ไฟฟ้า",
        "meter": "มิเตอร์",
        "energy": "พลังงานไฟฟ้า",
        "item": "รายการ",
        "quantity": "จำนวน",
        "price": "ราคาต่อหน่วย",
        "amount": "จำนวนเงิน",
        "above": "ส่วนที่เกิน",
        "subtotal": "รวมก่อนภาษีมูลค่าเพิ่ม",
        "before_tax": "รวมก่อนภาษี",
        "total": "รวมเงินทั้งสิ้น",
        "split": "ช่วงเวลาที่ใช้ไฟฟ้า",
        "by_day": "พลังงานไฟฟ้ารายวัน (kWh)",
        "quality": "ที่มาของข้อมูล",
        "measured": "วัดจริง",
        "interpolated": "เฉลี่ยจากเลขมิเตอร์",
        "estimated": "ประมาณการ",
        "gap": "ไม่มีการวัด หรือวัดได้บางส่วน",
        "hours": "ชั่วโมง",
        "gap_note": "เวลาที่ไม่มีการวัด ไม่คิดค่าไฟฟ้า",
        "adjustment": "สิ่งที่ฉบับนี้เปลี่ยนแปลง",
        "before": "เดิม",
        "now": "ใหม่",
        "difference": "ผลต่าง",
        "holidays": "วันหยุด",
        "checksum": "SHA-256 ของเอกสาร JSON",
        "not_legal": "คำนวณโดย Meterstream จากมิเตอร์ของบ้าน ไม่ใช่ใบแจ้งหนี้ของการไฟฟ้า",
    },
    lines={
        "energy all": "ค่าพลังงานไฟฟ้า",
        "energy spot": "ค่าพลังงานไฟฟ้าตามราคาตลาด",
        "energy on_peak": "ค่าพลังงานไฟฟ้า ช่วง On Peak",
        "energy off_peak": "ค่าพลังงานไฟฟ้า ช่วง Off Peak",
        "on_peak": "ช่วง On Peak",
        "off_peak": "ช่วง Off Peak",
        "ft": "ค่าไฟฟ้าผันแปร (Ft)",
        "service": "ค่าบริการ",
        "demand": "ค่าความต้องการพลังไฟฟ้า",
        "minimum": "ส่วนเพิ่มให้ถึงค่าไฟฟ้าต่ำสุด",
        "export": "เครดิตไฟฟ้าที่ส่งออก",
        "vat": "ภาษีมูลค่าเพิ่ม (VAT)",
        "tax": "ภาษี",
        "month": "เดือน",
        "day": "วัน",
    },
)  # fmt: skip

WORDS = {Language.THAI: THAI, Language.ENGLISH: ENGLISH}
