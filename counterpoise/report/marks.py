"""What every drawing is made of: lines, boxes, names at the left, notes at the right, round numbers below.

Artists are added without matplotlib's automatic limits: every drawing sets its own, and it is three times faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from counterpoise.report.names import columns_of, shorten
from counterpoise.report.svg import PAINT


def signed(value: float) -> str:
    """A difference in points, with a sign that is a minus and not a hyphen.

    >>> signed(-1.25), signed(0.04)
    ('−1.2', '0.0')
    """
    text = f"{value:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def short(number: float) -> str:
    """
    >>> short(1234567), short(7)
    ('1,234,567', '7')
    """
    return f"{number:,.0f}"


def line(area: Axes, x: Sequence[float], y: Sequence[float], marker: str = "", **style: Any) -> None:
    """A line, or marks alone where a marker is given."""
    joined = "none" if marker else "-"
    area.add_artist(
        Line2D(x, y, marker=marker, linestyle=joined, solid_capstyle="butt", clip_on=False, **style)
    )


def patch(
    area: Axes, corner: tuple[float, float], width: float, height: float, tone: str, alpha: float = 1
) -> None:
    box = Rectangle(corner, width, height, facecolor=PAINT[tone], linewidth=0, alpha=alpha, clip_on=False)
    area.add_artist(box)


def say(
    area: Axes,
    text: str,
    at: tuple[float, float],
    shift: tuple[float, float] = (0, 0),
    side: str = "center",
    tone: str = "muted",
    size: float = 12,
    **style: Any,
) -> None:
    """A text that begins, ends or is centred `shift` pixels from a point."""
    style = {"va": "center_baseline", "xycoords": "data", "annotation_clip": False, **style}
    area.annotate(text, at, shift, textcoords="offset points", color=PAINT[tone], size=size, ha=side, **style)


def margin(width: int, names: Sequence[str]) -> float:
    """Room for the names at the left: what the longest needs, at most a third of a narrow drawing."""
    return min(
        200.0 if width > 600 else 116.0, 22 + 7.1 * max((columns_of(name) for name in names), default=0)
    )


def frame(area: Axes, rows: int, low: float, high: float, edge: float = 0.6) -> None:
    area.set_xlim(low, high)
    area.set_ylim(rows - 1 + edge, -edge)  # the first row is at the top


def grid(area: Axes, marks: Sequence[float], unit: str, sign: bool = False) -> None:
    bottom, top = area.get_ylim()
    for mark in marks:
        line(area, [mark, mark], [bottom, top], color=PAINT["line"], linewidth=1, zorder=0)
        text = (signed(mark).removesuffix(".0") if sign else short(mark)) + unit
        say(area, text, (mark, bottom), (0, -14), size=11.5)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between two ends, zero among them where it lies between.

    >>> ticks(-2.2, 5.1, 4)
    [-2.0, 0.0, 2.0, 4.0]
    """
    rough = max(high - low, 1e-9) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [float(np.round(step * k, 9)) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def name_row(area: Axes, row: int, name: str, room: float, bold: bool = False) -> None:
    text, weight = shorten(name, max(int((room - 14) / 7.1), 2)), "bold" if bold else "normal"
    where = ("axes fraction", "data")
    say(area, text, (0, row), (-12, 0), "right", "ink", 12.5, weight=weight, xycoords=where)


def note_row(area: Axes, row: int, text: str, tone: str, room: float, size: float = 12) -> None:
    say(area, text, (1, row), (room - 2, 0), "right", tone, size, xycoords=("axes fraction", "data"))


def name_column(area: Axes, column: int, name: str, tall: bool) -> None:
    turned = {"rotation": 90, "rotation_mode": "anchor", "va": "center"} if tall else {"va": "top"}
    where, side = ("data", "axes fraction"), "right" if tall else "center"
    say(area, shorten(name, 14), (column, 0), (0, -8), side, size=11.5, xycoords=where, **turned)
