"""A bill as a page for people: A4, PDF, Thai or English."""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pymupdf_fonts
from fpdf import FPDF, Align, XPos, YPos

from streams.billing.document import QUALITIES
from streams.billing.front import Front
from streams.billing.words import WORDS, Language, Words
from streams.tariffs.rating import shortest

_FONT = "firago"
_WIDTH_MM, _MARGIN_MM = 210, 18
_INNER_MM = _WIDTH_MM - 2 * _MARGIN_MM
_INK, _FAINT, _RULE = (33, 37, 41), (110, 117, 125), (206, 212, 218)
_PERIOD_COLOURS = (
    *((214, 102, 42), (66, 118, 164), (122, 156, 89), (140, 109, 170)),
    *((232, 186, 72), (92, 176, 180), (188, 92, 120), (140, 124, 104)),
)
_QUALITY_COLOURS = {
    "measured": (96, 152, 104),
    "interpolated": (224, 184, 84),
    "estimated": (208, 128, 72),
    "gap": (196, 76, 76),
}
_CHART_MM, _STRIP_MM = 38.0, 2.2
_COLUMNS_MM = (78.0, 38.0, 26.0, 32.0)

Colour = tuple[int, int, int]


def bill_pdf(document: Mapping[str, Any], front: Front, language: Language) -> bytes:
    """The page of a bill's document (`streams.billing.document`)."""
    page = _Page(WORDS[language], document, front)
    page.draw()
    return bytes(page.pdf.output())


@cache
def _font_folder() -> tempfile.TemporaryDirectory[str]:
    """Holds `regular.ttf` and `bold.ttf`, for fpdf2 wants files; it ends with the process."""
    made = tempfile.TemporaryDirectory(prefix="meterstream-fonts-")
    for file, name in (("regular.ttf", "figo"), ("bold.ttf", "figbo")):
        Path(made.name, file).write_bytes(pymupdf_fonts.fontbuffers[name]())
    return made


class _Page:
    def __init__(self, words: Words, document: Mapping[str, Any], front: Front) -> None:
        self.words, self.document, self.front = words, document, front
        self.pdf = FPDF(format="A4")
        self.pdf.set_creation_date(front.issued_at or datetime(2000, 1, 1, tzinfo=UTC))
        self.pdf.set_title(f"{words['title']} {document['month']}")
        self.pdf.set_margins(_MARGIN_MM, 16)
        self.pdf.set_auto_page_break(True, 16)
        for style, file in (("", "regular.ttf"), ("B", "bold.ttf")):
            self.pdf.add_font(_FONT, style, Path(_font_folder().name, file))
        self.pdf.set_text_shaping(True)
        self.pdf.c_margin = 0
        self.pdf.add_page()

    def draw(self) -> None:
        self._head()
        self._lines()
        if self.front.adjustment is not None:
            self._adjustment(self.front.adjustment)
        if len(self.document["by_period"]) > 1:
            self._split()
        self._days()
        self._quality()
        self._foot()

    # ---- parts, top to bottom ----

    def _head(self) -> None:
        words, document, front = self.words, self.document, self.front
        self._text(words["title"], size=20, bold=True, height=11)
        if front.version is None:
            self._text(words["draft"], size=10, colour=_QUALITY_COLOURS["gap"])
        else:
            issued = "" if front.issued_at is None else self._instant(front.issued_at)
            self._text(
                f"{words['version']} {front.version}, {words['issued']} {issued}", colour=_FAINT
            )
        self.pdf.ln(3)
        billed = document["cycle"]
        start = datetime.fromisoformat(billed["start"]).date()
        last = date.fromisoformat(document["days"][-1]["day"])
        facts = [
            (words["home"], front.home_name),
            (words["month"], words.month(document["month"])),
            (
                words["cycle"],
                f"{words.day(start)} {words['until']} {words.day(last)} "
                f"({billed['days']} {words['days']})",
            ),
            (words["tariff"], f"{document['tariff']}  {front.tariff_title}"),
            (words["meter"], ", ".join(document["meters"])),
            (words["energy"], f"{_number(document['energy_kwh'])} kWh"),
        ]
        for label, value in facts:
            self._set(9, colour=_FAINT)
            self.pdf.cell(38, 5.6, label)
            self._set(9)
            self.pdf.multi_cell(
                _INNER_MM - 38, 5.6, value, new_x=XPos.LMARGIN, new_y=YPos.NEXT, align=Align.L
            )

    def _lines(self) -> None:
        words, document = self.words, self.document
        titles = ("item", "quantity", "price", "amount")
        unit = document["currency"]
        self._heading("")
        self._row([f"{words[one]}" for one in titles[:3]] + [f"{words['amount']} ({unit})"], True)
        self._rule()
        taxed = False
        for line in document["lines"]:
            if line["kind"] == "tax" and not taxed:
                taxed = True
                before = "subtotal" if line["name"] == "vat" else "before_tax"
                self._row([words[before], "", "", _number(document["subtotal"])])
            self._line(line)
        self._rule()
        self._row([words["total"], "", "", _number(document["total"])], True, 11)

    def _line(self, line: Mapping[str, Any]) -> None:
        name = self.words.line(line["kind"], line["name"])
        if line["kind"] == "tax":
            name = f"{name} {shortest(Decimal(line['price']) * 100)}%"
        price = "" if line["kind"] == "tax" else line.get("price", "")
        quantity = ""
        if "quantity" in line:
            unit = self.words.lines.get(line["unit"], line["unit"])
            quantity = f"{_number(line['quantity'])} {unit}"
        self._row([name, quantity, price, _number(line["amount"])])
        for part in line.get("parts", ()):
            label = f"    {self.words['above']} {_number(part['above'])} {line['unit']}"
            amount = f"{Decimal(part['amount']):,.4f}"
            quantity = f"{_number(part['quantity'])} {line['unit']}"
            self._row([label, quantity, part["price"], amount], colour=_FAINT, size=8)

    def _adjustment(self, adjustment: Mapping[str, Any]) -> None:
        words = self.words
        self._heading(words["adjustment"])
        self._row(["", words["before"], words["now"], words["difference"]], True)
        for line in adjustment["lines"]:
            name = words.line(line["kind"], line["name"])
            self._row([name, *(_number(line[key]) for key in ("before", "now", "difference"))])
        self._rule()
        totals = [_number(adjustment[key]) for key in ("before", "now", "difference")]
        self._row([words["total"], *totals], True)

    def _split(self) -> None:
        """One bar of the cycle's energy by period, and its legend."""
        if self.pdf.will_page_break(26):
            self.pdf.add_page()
        self._heading(self.words["split"])
        periods = {name: Decimal(kwh) for name, kwh in self._periods().items()}
        total = sum(periods.values()) or Decimal(1)
        at, top = float(_MARGIN_MM), self.pdf.get_y()
        for colour, kwh in zip(cycle(_PERIOD_COLOURS), periods.values(), strict=False):
            width = float(kwh / total) * _INNER_MM
            self._box(at, top, width, 5, colour)
            at += width
        self.pdf.set_y(top + 6.5)
        self._legend(
            [
                (colour, f"{self.words.line('', name)}: {kwh:,.1f} kWh, {_percent(kwh / total)}")
                for colour, (name, kwh) in zip(
                    cycle(_PERIOD_COLOURS), periods.items(), strict=False
                )
            ]
        )

    def _days(self) -> None:
        """A bar a day, by period; under it how its time was measured."""
        if self.pdf.will_page_break(_CHART_MM + 24):
            self.pdf.add_page()
        self._heading(self.words["by_day"])
        days = self.document["days"]
        most = max((Decimal(day["energy_kwh"]) for day in days), default=Decimal(0)) or Decimal(1)
        top, left = self.pdf.get_y() + 2, _MARGIN_MM + 9.0
        step = (_INNER_MM - 9.0) / len(days)
        self._scale(most, top, left)
        for number, day in enumerate(days):
            at, base = left + number * step, top + _CHART_MM
            for colour, kwh in zip(cycle(_PERIOD_COLOURS), self._stack(day), strict=False):
                height = float(kwh / most) * _CHART_MM
                base -= height
                self._box(at + step * 0.14, base, step * 0.72, height, colour)
            self._strip(day["by_quality"], at + step * 0.14, top + _CHART_MM + 1, step * 0.72)
            self._set(6.5, colour=_FAINT)
            self.pdf.set_xy(at, top + _CHART_MM + _STRIP_MM + 1.5)
            self.pdf.cell(step, 3, str(int(day["day"][-2:])), align=Align.C)
        self.pdf.set_xy(_MARGIN_MM, top + _CHART_MM + _STRIP_MM + 6)

    def _stack(self, day: Mapping[str, Any]) -> list[Decimal]:
        by_period = day["by_period"]
        if not by_period:
            return [Decimal(0), Decimal(day["energy_kwh"])]
        return [Decimal(by_period[name]) for name in self._periods()]

    def _periods(self) -> dict[str, str]:
        """In the order of the bill's lines, as colours are given."""
        known: dict[str, str] = self.document["by_period"]
        named = [line["name"] for line in self.document["lines"] if line["name"] in known]
        return {name: known[name] for name in dict.fromkeys([*named, *known])}

    def _scale(self, most: Decimal, top: float, left: float) -> None:
        for share in (0.0, 0.5, 1.0):
            y = top + _CHART_MM * (1 - share)
            self.pdf.set_draw_color(*_RULE)
            self.pdf.line(left, y, _MARGIN_MM + _INNER_MM, y)
            self._set(6.5, colour=_FAINT)
            self.pdf.set_xy(_MARGIN_MM, y - 2)
            self.pdf.cell(8, 4, f"{float(most) * share:,.1f}", align=Align.R)

    def _strip(self, by_quality: Mapping[str, Any], left: float, top: float, width: float) -> None:
        quarters = sum(one["quarter_hours"] for one in by_quality.values())
        for name in QUALITIES:
            if name in by_quality:
                part = width * by_quality[name]["quarter_hours"] / quarters
                self._box(left, top, part, _STRIP_MM, _QUALITY_COLOURS[name])
                left += part

    def _quality(self) -> None:
        by_quality = self.document["by_quality"]
        self._heading(self.words["quality"])
        total = Decimal(self.document["energy_kwh"]) or Decimal(1)
        told = []
        for name in QUALITIES:
            if name in by_quality:
                kwh = Decimal(by_quality[name]["energy_kwh"])
                hours = by_quality[name]["quarter_hours"] / 4
                told.append(
                    (
                        _QUALITY_COLOURS[name],
                        f"{self.words[name]}: {kwh:,.1f} kWh, {_percent(kwh / total)} "
                        f"({hours:,.1f} {self.words['hours']})",
                    )
                )
        self._legend(told, across=False)
        if "gap" in by_quality:
            self._text(self.words["gap_note"], size=8, colour=_FAINT)

    def _foot(self) -> None:
        holidays = self.document["versions"]["holidays"]
        if holidays:
            days = ", ".join(self.words.day(date.fromisoformat(day)) for day in sorted(holidays))
            self._text(f"{self.words['holidays']}: {days}", size=8, colour=_FAINT)
        self.pdf.ln(2)
        self._text(f"{self.words['checksum']}: {self.front.sha256}", size=7, colour=_FAINT)
        self._text(self.words["not_legal"], size=7, colour=_FAINT)

    # ---- strokes ----

    def _set(self, size: float, *, bold: bool = False, colour: Colour = _INK) -> None:
        self.pdf.set_font(_FONT, "B" if bold else "", size)
        self.pdf.set_text_color(*colour)

    def _text(
        self,
        text: str,
        *,
        size: float = 9,
        bold: bool = False,
        colour: Colour = _INK,
        height: float = 0,
    ) -> None:
        self._set(size, bold=bold, colour=colour)
        self.pdf.multi_cell(
            _INNER_MM,
            height or size * 0.56,
            text,
            new_x=XPos.LMARGIN,
            new_y=YPos.NEXT,
            align=Align.L,
        )

    def _heading(self, text: str) -> None:
        self.pdf.ln(4)
        if text:
            self._text(text, size=10, bold=True, height=7)

    def _row(
        self,
        cells: Sequence[str],
        bold: bool = False,
        size: float = 9,
        colour: Colour = _INK,
    ) -> None:
        self._set(size, bold=bold, colour=colour)
        for number, (width, text) in enumerate(zip(_COLUMNS_MM, cells, strict=True)):
            self.pdf.cell(width, size * 0.62, text, align=Align.R if number else Align.L)
        self.pdf.ln()

    def _rule(self) -> None:
        self.pdf.set_draw_color(*_RULE)
        y = self.pdf.get_y() + 0.6
        self.pdf.line(_MARGIN_MM, y, _MARGIN_MM + _INNER_MM, y)
        self.pdf.set_y(y + 0.8)

    def _box(self, left: float, top: float, width: float, height: float, colour: Colour) -> None:
        if width > 0 and height > 0:
            self.pdf.set_fill_color(*colour)
            self.pdf.rect(left, top, width, height, style="F")

    def _legend(self, told: Sequence[tuple[Colour, str]], *, across: bool = True) -> None:
        for colour, text in told:
            self._set(8.5)
            width = self.pdf.get_string_width(text) + 8
            if self.pdf.get_x() + 4 + width > _WIDTH_MM - _MARGIN_MM + 8:
                self.pdf.ln(5)
            left, top = self.pdf.get_x(), self.pdf.get_y()
            self._box(left, top + 1.2, 2.6, 2.6, colour)
            self.pdf.set_xy(left + 4, top)
            self.pdf.cell(width, 5, text)
            if not across:
                self.pdf.ln()
        if across:
            self.pdf.ln()

    def _instant(self, at: datetime) -> str:
        offset = datetime.fromisoformat(self.document["cycle"]["start"]).tzinfo
        local = at.astimezone(offset)
        return f"{self.words.day(local.date())} {local:%H:%M}"


def _number(text: str) -> str:
    """Thousands apart; kWh to three decimals, money as it stands."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -3:
        number = number.quantize(Decimal("0.001"))
    return f"{number:,f}"


def _percent(share: Decimal) -> str:
    shown = f"{share * 100:.1f}"
    return f"{shown.removesuffix('.0')}%"
