"""Numbers and texts in, what a page says of them out."""

from __future__ import annotations

import html
import math
from typing import Any


def escaped(text: object) -> str:
    """As HTML, in an element or in an attribute."""
    return html.escape(str(text), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """A few digits, thousands as k and M, a true minus; – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            scale = 1e3 if unit == "k" else scale
            return number(value / scale, digits) + unit
    if size and (size < 1e-3):
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{float(mantissa):g}·10{_superscript(int(exponent))}".replace("-", "−")
    places = max(digits - 1 - math.floor(math.log10(size)), 0) if size else 0
    text = f"{value:.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def whole(value: float) -> str:
    """An integer with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", " ").replace("-", "−")


def share(value: float | None) -> str:
    """In per cent."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if 0 < value < 0.9995 else f"{100 * value:.0f} %"


def duration(seconds: float | None) -> str:
    """In the unit that fits."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    for unit, scale in (("µs", 1e-6), ("ms", 1e-3)):
        if 0 < abs(seconds) < 1000 * scale:
            return f"{number(seconds / scale)} {unit}"
    if abs(seconds) < 120:
        return f"{number(seconds)} s"
    if abs(seconds) < 7200:
        return f"{number(seconds / 60)} min"
    return f"{number(seconds / 3600)} h" if abs(seconds) < 72 * 3600 else f"{number(seconds / 86400)} days"


def time_unit(longest_s: float) -> tuple[str, float]:
    """(unit, seconds in it) of an axis that goes so far."""
    return ("s", 1.0) if longest_s <= 300 else ("min", 60.0) if longest_s <= 3 * 3600 else ("h", 3600.0)


def core_unit(most_hours: float) -> tuple[str, float]:
    """(unit, hours in it) of an axis that goes so far."""
    return ("core-seconds", 1 / 3600) if most_hours < 0.05 else ("core-hours", 1.0)


def core_time(hours: float) -> str:
    """Core-hours, or core-seconds where they are few."""
    unit, scale = core_unit(hours)
    return f"{number(hours / scale)} {unit}"


def value(item: Any) -> str:
    """A value of a configuration, as TOML writes it."""
    if item is None:
        return "–"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, list | tuple):
        return "[" + ", ".join(value(one) for one in item) + "]"
    return f'"{item}"' if isinstance(item, str) else str(item)


def table(head: list[str], rows: list[list[str]], *, numbers: bool = True, classes: str = "") -> str:
    """A table of cells that are HTML already; all columns but the first hold numbers."""
    style = f"{classes} numbers" if numbers else classes
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    opening = f'<div class="scroll"><table class="{style.strip()}">'
    return f"{opening}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
