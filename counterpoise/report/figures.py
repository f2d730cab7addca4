"""The drawings of the report, each a function from plain rows to an SVG fragment. Nothing touches the disk.

Every function takes the width in pixels: the page asks for a wide and a narrow drawing of the same rows, since
a figure that is only scaled down cannot be read on a phone. With more than `MANY` classes the bars
become curves over the classes, sorted by their number of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from counterpoise.report.svg import PAINT, drawn, sheet, shorten

MANY = 40
Drawing = tuple[Figure, str]
Row = Mapping[str, Any]


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


@drawn
def counts(classes: Sequence[Row], width: int = 760) -> Drawing:
    """How many training images each class has, and how many were added."""
    rows = sorted(classes, key=lambda row: -row["train"])
    real = [float(row["train"]) for row in rows]
    added = [float(max(row.get("after", row["train"]) - row["train"], 0)) for row in rows]
    alt = f"Training images per class, from {short(max(real, default=0))} down to {short(min(real, default=0))}"
    alt += f"; {short(sum(added))} synthetic images were added." if any(added) else "."
    if len(rows) > MANY:
        return _curves([("real", real), ("made", [a + b for a, b in zip(real, added, strict=True)])], width, "", alt)
    labels = [short(r) + (f" + {short(a)}" if a else "") for r, a in zip(real, added, strict=True)]
    return _bars([row["name"] for row in rows], [("real", real), ("made", added)], labels, width), alt


@drawn
def recalls(rows: Sequence[Row], width: int = 760) -> Drawing:
    """Recall of each class with the first arm (ring) and with the second (dot), most frequent class first."""
    rows = sorted(rows, key=lambda row: -row["count"])
    before, after = [float(row["before"]) for row in rows], [float(row["after"]) for row in rows]
    better = sum(a > b for a, b in zip(after, before, strict=True))
    alt = f"Recall per class before and after: {better} of {len(rows)} classes rise, "
    alt += f"{sum(a < b for a, b in zip(after, before, strict=True))} fall."
    if len(rows) > MANY:
        return _curves([("muted", before), ("made", after)], width, " %", alt, smooth=True)
    left, right, row = _margin(width), 58.0, 25.0
    figure, area = sheet(width, row * len(rows) + 40, left, right, 8, 32)
    _frame(area, len(rows), 0, 100)
    _grid(area, [0, 25, 50, 75, 100], " %")
    for at, (item, old, new) in enumerate(zip(rows, before, after, strict=True)):
        tone = PAINT["up" if new > old else "down" if new < old else "flat"]
        area.plot([old, new], [at, at], color=tone, linewidth=3.2, alpha=0.45, clip_on=False, solid_capstyle="butt")
        area.plot([old], [at], "o", ms=7.5, mfc=PAINT["card"], mec=PAINT["muted"], mew=1.6, clip_on=False)
        area.plot([new], [at], "o", ms=8.5, color=tone, mec=PAINT["card"], mew=1.2, clip_on=False)
        _name(area, at, item["name"], left)
        _note(area, at, signed(new - old), tone, right)
    return figure, alt


@drawn
def forest(rows: Sequence[Row], width: int = 760) -> Drawing:
    """Differences with their intervals around zero. Rows: name, mean, low, high, verdict, role."""
    known = [row for row in rows if row.get("mean") is not None]
    ends = [float(row[key]) for row in known for key in ("low", "high") if row.get(key) is not None]
    low, high = min([*ends, -0.5]), max([*ends, 0.5])
    pad = (high - low) * 0.05
    left, right, row = _margin(width), 122.0 if width > 500 else 98.0, 27.0
    figure, area = sheet(width, row * len(rows) + 40, left, right, 8, 32)
    _frame(area, len(rows), low - pad, high + pad)
    _grid(area, _ticks(low, high, 6 if width > 500 else 4), "", sign=True)
    area.plot([0, 0], [-0.6, len(rows) - 0.4], color=PAINT["ink"], linewidth=1.2)
    shapes = {"candidate": "D", "control": "o", "opponent": "|"}
    for at, item in enumerate(rows):
        _name(area, at, item["name"], left, bold=bool(item.get("bold")))
        if item.get("mean") is None or item.get("role") == "opponent":
            area.plot([0], [at], "s", ms=7, mfc=PAINT["card"], mec=PAINT["ink"], mew=1.6)
            _note(area, at, "reference" if item.get("role") == "opponent" else "not measured", PAINT["muted"], right)
            continue
        tone = PAINT[{"helps": "up", "hurts": "down"}.get(str(item.get("verdict")), "flat")]
        span, mark = [float(item["low"]), float(item["high"])], shapes.get(str(item.get("role")), "s")
        area.plot(span, [at, at], color=tone, linewidth=2.4, solid_capstyle="butt")
        area.plot([item["mean"]], [at], mark, ms=8 if mark != "D" else 7.5, color=tone, mec=PAINT["card"], mew=1.2)
        _note(area, at, f"{signed(item['mean'])}  ({signed(span[0])} to {signed(span[1])})", tone, right, 11)
    clear = [row["name"] for row in known if row.get("verdict") == "helps"]
    alt = f"Differences with intervals for {len(rows)} rows; clearly above zero: {', '.join(clear) or 'none'}."
    return figure, alt


@drawn
def cells(matrix: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], width: int = 380, top: float = 1) -> Drawing:
    """Shares of each row (0 to 1) as shaded cells, darkest at `top`, with the number in per cent in each."""
    shares = np.asarray(matrix, float).reshape(len(rows), len(columns))
    left = _margin(width, max((len(name) for name in rows), default=1))
    cell = (width - left - 4) / max(len(columns), 1)
    tall = max(len(name) for name in columns) > max(2, cell / 8)
    foot = min(max(len(name) for name in columns), 14) * 6.6 + 12 if tall else 24.0
    height = min(max(cell, 20.0), 30.0)
    figure, area = sheet(width, height * len(rows) + foot + 4, left, 4, 4, foot)
    _frame(area, len(rows), -0.5, len(columns) - 0.5, edge=0.5)
    for (at, column), share in np.ndenumerate(shares):
        # Never darker than 0.7: the number on it keeps its contrast with the one colour of all text.
        box = (column - 0.46, at - 0.44)
        area.add_patch(_patch(box, 0.92, 0.88, "heat", 0.06 + 0.64 * float(np.clip(share / max(top, 1e-12), 0, 1))))
        if share >= 0.005 and cell >= 17:
            size = 11 if cell >= 24 else 9.5
            area.text(column, at, f"{share:.0%}"[:-1], ha="center", va="center_baseline", size=size, color=PAINT["ink"])
    for at, name in enumerate(rows):
        _name(area, at, name, left)
    for at, name in enumerate(columns):
        if not tall or cell >= 11:
            _below(area, at, name, tall)
    return figure, f"Shares of {len(rows)} rows over {len(columns)} columns, shaded by size; the table has the numbers."


@drawn
def stacks(
    rows: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str], alt: str, width: int = 760
) -> Drawing:
    """One bar per row, made of the parts of `series`: (colour, one value per row)."""
    return _bars(rows, series, labels, width), alt


def _bars(
    names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str], width: int
) -> Figure:
    left, right, row = _margin(width), 8.0 + 7.2 * max((len(label) for label in labels), default=0), 25.0
    figure, area = sheet(width, row * len(names) + 8, left, min(right, width * 0.4), 4, 4)
    totals = np.sum([values for _, values in series], axis=0) if series else np.zeros(len(names))
    top = max(float(np.max(totals, initial=0.0)), 1e-9)
    _frame(area, len(names), 0, top)
    start = np.zeros(len(names))
    for tone, values in series:
        for at, value in enumerate(values):
            if value > 0:
                area.add_patch(_patch((start[at], at - 0.31), value, 0.62, tone, 1.0))
        start = start + np.asarray(values, float)
    for at, (name, label) in enumerate(zip(names, labels, strict=True)):
        _name(area, at, name, left)
        area.annotate(
            label, (start[at], at), (7, 0), textcoords="offset points", va="center_baseline", size=12, color=PAINT["muted"]
        )
    return figure


def _curves(
    series: Sequence[tuple[str, Sequence[float]]], width: int, unit: str, alt: str, smooth: bool = False
) -> Drawing:
    """One curve per series over the classes in the order given; `smooth` averages neighbouring classes."""
    number = len(series[0][1])
    figure, area = sheet(width, 260, 48, 12, 14, 40)
    top = max(max(values) for _, values in series)
    log = not smooth and top > 50 * max(min(min(values) for _, values in series), 1)
    area.set_xlim(0, number)
    area.set_yscale("symlog", linthresh=1) if log else None
    area.set_ylim(0, 100 if smooth else top * (1.15 if log else 1.03))
    marks = [10.0**power for power in range(math.ceil(math.log10(max(top, 2))))] if log else _ticks(0, top, 5)
    for mark in [0, 25, 50, 75, 100] if smooth else marks:
        area.plot([0, number], [mark, mark], color=PAINT["line"], linewidth=1)
        area.annotate(
            short(mark) + unit, (0, mark), (-7, 0), textcoords="offset points", ha="right", va="center_baseline",
            size=11, color=PAINT["muted"],
        )  # fmt: skip
    for tone, values in reversed(series):
        pieces = np.array_split(np.asarray(values, float), min(number, 60))
        means = np.array([piece.mean() for piece in pieces])
        middles = (np.cumsum([len(piece) for piece in pieces]) - np.array([len(piece) for piece in pieces]) / 2).tolist()
        if smooth:
            area.plot(middles, means, color=PAINT[tone], linewidth=2.2)
        else:
            area.fill_between([0, *middles, number], [means[0], *means, means[-1]], color=PAINT[tone], linewidth=0)
    for at, text, side in ((0, "most frequent class", "left"), (number, "rarest", "right")):
        area.annotate(
            text, (at, 0), (0, -22), textcoords="offset points", ha=side, va="center_baseline", size=11.5,
            color=PAINT["muted"], annotation_clip=False,
        )  # fmt: skip
    return figure, f"{alt} The {number} classes are drawn as a curve from the most frequent to the rarest."


def _patch(corner: tuple[float, float], width: float, height: float, tone: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor=PAINT[tone], linewidth=0, alpha=alpha, clip_on=False)


def _margin(width: int, letters: int = 99) -> float:
    """Room for names at the left: a fifth of a wide drawing, more than a quarter of a narrow one."""
    return min(165.0 if width > 500 else 94.0, 14 + 7.2 * letters)


def _frame(area: Axes, rows: int, low: float, high: float, edge: float = 0.6) -> None:
    area.set_xlim(low, high)
    area.set_ylim(rows - 1 + edge, -edge)  # the first row is at the top


def _grid(area: Axes, marks: Sequence[float], unit: str, sign: bool = False) -> None:
    bottom, top = area.get_ylim()
    for mark in marks:
        area.plot([mark, mark], [bottom, top], color=PAINT["line"], linewidth=1, zorder=0)
        text = (signed(mark).removesuffix(".0") if sign else short(mark)) + unit
        area.annotate(
            text, (mark, bottom), (0, -14), textcoords="offset points", ha="center", va="center_baseline", size=11.5,
            color=PAINT["muted"], annotation_clip=False,
        )  # fmt: skip


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between two ends, zero among them where it lies between.

    >>> _ticks(-2.2, 5.1, 4)
    [-2.0, 0.0, 2.0, 4.0]
    """
    rough = max(high - low, 1e-9) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [float(np.round(step * k, 9)) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _name(area: Axes, row: int, name: str, room: float, bold: bool = False) -> None:
    area.annotate(
        shorten(name, int((room - 10) / 6.9)), (0, row), (-12, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="center_baseline", size=12.5, color=PAINT["ink"],
        weight="bold" if bold else "normal", annotation_clip=False,
    )  # fmt: skip


def _note(area: Axes, row: int, text: str, tone: str, room: float, size: float = 12) -> None:
    area.annotate(
        text, (1, row), (room - 2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
        va="center_baseline", size=size, color=tone, annotation_clip=False,
    )  # fmt: skip


def _below(area: Axes, column: int, name: str, tall: bool) -> None:
    area.annotate(
        shorten(name, 14), (column, 0), (0, -8), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="right" if tall else "center", va="center" if tall else "top", size=11.5, color=PAINT["muted"],
        rotation=90 if tall else 0, rotation_mode="anchor", annotation_clip=False,
    )  # fmt: skip
