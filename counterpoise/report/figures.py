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
from matplotlib.figure import Figure

from counterpoise.report.marks import (
    frame,
    grid,
    line,
    margin,
    name_column,
    name_row,
    note_row,
    patch,
    say,
    short,
    signed,
    ticks,
)
from counterpoise.report.names import columns_of
from counterpoise.report.svg import PAINT, drawn, sheet

MANY = 40  # classes that still get a bar each
ROOMY = 480  # pixels from which a drawing has room for intervals in words
Drawing = tuple[Figure, str]
Row = Mapping[str, Any]


@drawn
def counts(classes: Sequence[Row], width: int = 760) -> Drawing:
    """How many training images each class has, and how many were added."""
    rows = sorted(classes, key=lambda row: -row["train"])
    real = [float(row["train"]) for row in rows]
    added = [float(max(row.get("after", row["train"]) - row["train"], 0)) for row in rows]
    alt = f"Training images per class, {short(max(real, default=0))} down to {short(min(real, default=0))}"
    alt += f"; {short(sum(added))} synthetic images were added." if any(added) else "."
    if len(rows) > MANY:
        filled = [a + b for a, b in zip(real, added, strict=True)]
        return _curves([("real", real), ("made", filled)], width, "", alt)
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
    left, right, row = margin(width, [item["name"] for item in rows]), 58.0, 25.0
    figure, area = sheet(width, row * len(rows) + 40, left, right, 8, 32)
    frame(area, len(rows), 0, 100)
    grid(area, [0, 25, 50, 75, 100], " %")
    for at, (item, old, new) in enumerate(zip(rows, before, after, strict=True)):
        tone = "up" if new > old else "down" if new < old else "flat"
        line(area, [old, new], [at, at], color=PAINT[tone], linewidth=3.2, alpha=0.45)
        line(area, [old], [at], "o", ms=7.5, mfc=PAINT["card"], mec=PAINT["muted"], mew=1.6)
        line(area, [new], [at], "o", ms=8.5, color=PAINT[tone], mec=PAINT["card"], mew=1.2)
        name_row(area, at, item["name"], left)
        note_row(area, at, signed(new - old), tone, right)
    return figure, alt


@drawn
def forest(rows: Sequence[Row], width: int = 760) -> Drawing:
    """Differences with their intervals around zero. Rows: name, mean, low, high, verdict, role."""
    known = [row for row in rows if row.get("mean") is not None]
    ends = [float(row[key]) for row in known for key in ("low", "high") if row.get(key) is not None]
    low, high = min([*ends, -0.5]), max([*ends, 0.5])
    pad = (high - low) * 0.05
    left, right, row = margin(width, [row["name"] for row in rows]), 122.0 if width >= ROOMY else 62.0, 27.0
    figure, area = sheet(width, row * len(rows) + 40, left, right, 8, 32)
    frame(area, len(rows), low - pad, high + pad)
    grid(area, ticks(low, high, 6 if width > 600 else 4), "", sign=True)
    line(area, [0, 0], [-0.6, len(rows) - 0.4], color=PAINT["ink"], linewidth=1.2)
    shapes = {"candidate": "D", "control": "o"}
    for at, item in enumerate(rows):
        name_row(area, at, item["name"], left, bold=bool(item.get("bold")))
        if item.get("mean") is None or item.get("role") == "opponent":
            line(area, [0], [at], "s", ms=7, mfc=PAINT["card"], mec=PAINT["ink"], mew=1.6)
            note_row(
                area, at, "reference" if item.get("role") == "opponent" else "not measured", "muted", right
            )
            continue
        tone = {"helps": "up", "hurts": "down"}.get(str(item.get("verdict")), "flat")
        mean, shape = float(item["mean"]), shapes.get(str(item.get("role")), "s")
        line(area, [mean], [at], shape, ms=7.5, color=PAINT[tone], mec=PAINT["card"], mew=1.2, zorder=3)
        text = signed(mean)
        if item.get("low") is not None and item.get("high") is not None:
            line(area, [item["low"], item["high"]], [at, at], color=PAINT[tone], linewidth=2.4)
            text += f"  ({signed(item['low'])} to {signed(item['high'])})" if width >= ROOMY else ""
        note_row(area, at, text, tone, right, 11 if width >= ROOMY else 12)
    clear = [row["name"] for row in known if row.get("verdict") == "helps"]
    return figure, f"Differences with intervals, {len(rows)} rows; they help: {', '.join(clear) or 'none'}."


@drawn
def cells(
    matrix: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    width: int = 380,
    top: float = 1,
) -> Drawing:
    """Shares of each row (0 to 1) as shaded cells, darkest at `top`, with the number in per cent in each."""
    shares = np.asarray(matrix, float).reshape(len(rows), len(columns))
    left = margin(width, rows)
    cell = (width - left - 4) / max(len(columns), 1)
    longest = max(columns_of(name) for name in columns)
    tall = longest > max(2, cell / 8)
    foot = min(longest, 14) * 6.6 + 12 if tall else 24.0
    height = min(max(cell, 20.0), 30.0)
    figure, area = sheet(width, height * len(rows) + foot + 4, left, 4, 4, foot)
    frame(area, len(rows), -0.5, len(columns) - 0.5, edge=0.5)
    for (at, column), share in np.ndenumerate(shares):
        # Never darker than 0.7: the number on it keeps its contrast with the one colour of all text.
        alpha = 0.06 + 0.64 * float(np.clip(share / max(top, 1e-12), 0, 1))
        patch(area, (column - 0.46, at - 0.44), 0.92, 0.88, "heat", alpha)
        if share >= 0.005 and cell >= 17:
            say(area, f"{100 * share:.0f}", (column, at), tone="ink", size=11 if cell >= 24 else 9.5)
    for at, name in enumerate(rows):
        name_row(area, at, name, left)
    for at, name in enumerate(columns):
        if not tall or cell >= 11:
            name_column(area, at, name, tall)
    return figure, f"Shares in per cent, {len(rows)} rows over {len(columns)} columns, shaded by size."


@drawn
def stacks(
    rows: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    labels: Sequence[str],
    alt: str,
    width: int = 760,
) -> Drawing:
    """One bar per row, made of the parts of `series`: (colour, one value per row)."""
    return _bars(rows, series, labels, width), alt


@drawn
def descent(name: str, steps: Sequence[int], values: Sequence[float], width: int = 236) -> Drawing:
    """A term of a loss over the steps of a training, on an axis of its own; in powers of ten where it falls far."""
    low, top = min(values), max(values)
    log = low > 0 and top > 30 * low
    figure, area = sheet(width, 150, 46, 14, 10, 26)
    area.set_xlim(0, max(steps))
    area.set_yscale("log") if log else None
    area.set_ylim(*((low / 1.3, top * 1.3) if log else (min(low, 0), top * 1.05 or 1)))
    powers = range(math.ceil(math.log10(low / 1.3)), math.floor(math.log10(top * 1.3)) + 1) if log else ()
    for mark in [10.0**power for power in powers][:: max(len(powers) // 4, 1)] or ticks(min(low, 0), top, 3):
        line(area, [0, max(steps)], [mark, mark], color=PAINT["line"], linewidth=1)
        say(area, f"{mark:,.4g}", (0, mark), (-7, 0), "right", size=11)
    line(area, steps, values, color=PAINT["made"], linewidth=2.2)
    line(area, steps[-1:], values[-1:], "o", ms=6, color=PAINT["made"])
    where = ("data", "axes fraction")
    for at, text, side in ((0, "0", "left"), (max(steps), f"{short(max(steps))} steps", "right")):
        say(area, text, (at, 0), (0, -14), side, size=11, xycoords=where)
    return figure, f"{name} over {short(max(steps))} steps, from {values[0]:.3g} to {values[-1]:.3g}."


def _bars(
    names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str], width: int
) -> Figure:
    right = 8.0 + 7.2 * max((len(label) for label in labels), default=0)
    left = margin(width, names)
    figure, area = sheet(width, 25.0 * len(names) + 8, left, min(right, width * 0.4), 4, 4)
    totals = np.sum([values for _, values in series], axis=0) if series else np.zeros(len(names))
    top = max(float(np.max(totals, initial=0.0)), 1e-9)
    frame(area, len(names), 0, top)
    start = np.zeros(len(names))
    for tone, values in series:
        for at, value in enumerate(values):
            if value > 0:
                patch(area, (start[at], at - 0.31), value, 0.62, tone)
        start = start + np.asarray(values, float)
    for at, (name, label) in enumerate(zip(names, labels, strict=True)):
        name_row(area, at, name, left)
        say(area, label, (start[at], at), (7, 0), "left")
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
    marks = [10.0**power for power in range(math.ceil(math.log10(max(top, 2))))] if log else ticks(0, top, 5)
    for mark in [0, 25, 50, 75, 100] if smooth else marks:
        line(area, [0, number], [mark, mark], color=PAINT["line"], linewidth=1)
        say(area, short(mark) + unit, (0, mark), (-7, 0), "right", size=11)
    for tone, values in reversed(series):
        pieces = np.array_split(np.asarray(values, float), min(number, 60))
        means = [float(piece.mean()) for piece in pieces]
        sizes = np.array([len(piece) for piece in pieces])
        middles = (np.cumsum(sizes) - sizes / 2).tolist()
        if smooth:
            line(area, middles, means, color=PAINT[tone], linewidth=2.2)
        else:
            ends = [0.0, *middles, float(number)]
            area.fill_between(ends, [means[0], *means, means[-1]], color=PAINT[tone], linewidth=0)
    for at, text, side in ((0, "most frequent class", "left"), (number, "rarest", "right")):
        say(area, text, (at, 0), (0, -22), side, size=11.5)
    return figure, f"{alt} The {number} classes are drawn as a curve from the most frequent to the rarest."
