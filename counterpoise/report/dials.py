"""Drawings of what feedback does: a measure over the scales of a guide, scores over rounds, needs beside what was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from counterpoise.report.figures import Drawing
from counterpoise.report.marks import frame, line, margin, name_row, patch, say, short, signed, ticks
from counterpoise.report.svg import PAINT, drawn, sheet

MOST_LINES = 40  # draws that still get a line each
MOST_SCALES = 6  # that are written below an axis
WORDS = {"error": "error on validation", "loss": "loss on validation, nats", "entropy": "entropy, nats"}


@drawn
def dial(panel: Mapping[str, Any], width: int = 236) -> Drawing:
    """A measure over the scale, a logarithmic axis with 0 (unguided, a ring) at its left; the chosen scale is shaded."""
    scales, values = panel["scales"], panel["values"]
    ends = [(value, value) if end is None else end for value, end in zip(values, panel["ends"], strict=True)]
    figure, area = sheet(width, 158, 46, 16, 12, 28)
    at = _places(scales)
    reach = max(at) - min(at) or 1.0
    area.set_xlim(min(at) - 0.08 * reach, max(at) + 0.08 * reach)
    low, high = _span([number for end in ends for number in end], panel["least"])
    area.set_ylim(low, high)
    left, right = area.get_xlim()
    for mark in ticks(low, high, 4):
        ink = panel["sign"] and mark == 0
        line(area, [left, right], [mark, mark], color=PAINT["ink" if ink else "line"], linewidth=1, zorder=1)
        text = signed(mark).removesuffix(".0") if panel["sign"] else f"{mark:,.4g}"
        say(area, text, (left, mark), (-7, 0), "right", size=11)
    if panel["chosen"] in scales:
        here, half = at[scales.index(panel["chosen"])], 0.055 * (right - left)
        patch(area, (here - half, low), 2 * half, high - low, "heat", 0.22)
    if scales[0] == 0:
        line(area, [at[0], right], [values[0]] * 2, color=PAINT["muted"], linewidth=1.2, alpha=0.55)
    line(area, at[scales[0] == 0 :], values[scales[0] == 0 :], color=PAINT["made"], linewidth=2, alpha=0.6)
    for place, scale, value, end in zip(at, scales, values, ends, strict=True):
        line(area, [place, place], end, color=PAINT["made"], linewidth=2.2)
        ring = {"mfc": PAINT["card"], "mec": PAINT["muted"], "mew": 1.6} if scale == 0 else {}
        line(area, [place], [value], "o", ms=7, zorder=3, **({"color": PAINT["made"]} | ring))
    for place, scale in list(zip(at, scales, strict=True))[:: math.ceil(len(scales) / MOST_SCALES)]:
        say(area, f"{scale:g}", (place, 0), (0, -15), size=11, xycoords=("data", "axes fraction"))
    told = ", ".join(f"{value:.3g} at {scale:g}" for scale, value in zip(scales, values, strict=True))
    return figure, f"{panel['title']} over the scale: {told}."


def _places(scales: Sequence[float]) -> list[float]:
    """Powers of ten of the scales; 0, which has none, stands apart from the weakest."""
    known = [math.log10(scale) for scale in scales if scale > 0]
    apart = max(0.3 * (max(known) - min(known)), 0.35)
    return ([min(known) - apart] if 0 in scales else []) + known


def _span(values: Sequence[float], least: float) -> tuple[float, float]:
    """An axis around the values, never so short that nothing looks like much."""
    low, high = min(values), max(values)
    pad = max(0.1 * (high - low), (least - (high - low)) / 2)
    return low - pad, high + pad


@drawn
def practice(draws: Sequence[Mapping[str, Any]], width: int = 760) -> Drawing:
    """Validation score of every round's tutor: a thin line per draw, the mean of all thick as far as all of them go."""
    histories = [list(draw["history"]) for draw in draws]
    longest, shared = max(map(len, histories)), min(map(len, histories))
    figure, area = sheet(width, 258, 66, 22, 12, 58)
    area.set_xlim(-0.12, max(longest - 1, 1) + 0.12)
    low, high = _span([score for history in histories for score in history], 4)
    area.set_ylim(low, high)
    left, right = area.get_xlim()
    for mark in ticks(low, high, 4):
        line(area, [left, right], [mark, mark], color=PAINT["line"], linewidth=1, zorder=1)
        say(area, f"{mark:g} %", (left, mark), (-7, 0), "right", size=11)
    for history in histories[:MOST_LINES] if len(draws) > 1 else []:
        line(area, range(len(history)), history, color=PAINT["muted"], linewidth=1.2, alpha=0.7)
        line(area, [len(history) - 1], history[-1:], "o", ms=4, color=PAINT["muted"])
    means = np.mean([history[:shared] for history in histories], axis=0).tolist()
    line(area, range(shared), means, color=PAINT["made"], linewidth=2.8)
    line(area, range(shared), means, "o", ms=7, color=PAINT["made"], mec=PAINT["card"], mew=1.2, zorder=3)
    room = max(1, math.ceil(longest / (width / 48)))
    for at in range(0, longest, room):
        learnt = np.mean([draw["learnt"][at] for draw in draws if len(draw["learnt"]) > at])
        _below(area, str(at), at, -16, "ink")
        _below(area, short(learnt), at, -33)
    for text, drop in (("round", -16), ("samples", -33)):
        say(area, text, (0, 0), (-12, drop), "right", size=11, xycoords=("axes fraction", "axes fraction"))
    score = f"from {means[0]:.1f} to {means[-1]:.1f} per cent" if shared > 1 else f"{means[0]:.1f} per cent"
    return figure, f"Mean validation score over {shared} tutors of {len(draws)} draws, {score}."


def _below(area: Axes, text: str, at: float, drop: float, tone: str = "muted") -> None:
    say(area, text, (at, 0), (0, drop), tone=tone, size=11, xycoords=("data", "axes fraction"))


@drawn
def needs(table: Mapping[str, Any], width: int = 760) -> Drawing:
    """Left what each class needs, before (ring) and after (dot); right the images it had and the samples it got."""
    rows, percent = table["rows"], table["of"] == "error"
    left, right = margin(width, [row["name"] for row in rows]), 62.0
    figure, area = sheet(width, 25.0 * len(rows) + 34, left, right, 4, 30)
    frame(area, len(rows), 0, 2.12)  # need in 0 to 1, bars in 1.12 to 2.12
    needed = [row[key] for row in rows for key in ("need", "last") if row[key] is not None]
    top = 1.0 if percent else max([*needed, 1e-9])
    most = max(max(row["real"] + row["made"] for row in rows), 1)
    foot = len(rows) - 0.4
    for mark in (0, 0.5, 1):
        line(area, [mark, mark], [-0.6, foot], color=PAINT["line"], linewidth=1, zorder=0)
        text = f"{100 * mark:g} %" if percent else f"{mark * top:.2g}"
        say(area, text, (mark, foot), (0, -14), size=11)
    for at, row in enumerate(rows):
        name_row(area, at, row["name"], left)
        need, last = row["need"], row["last"]
        if need is None:
            say(area, "no validation images", (0, at), (4, 0), "left", size=11)
        else:
            now = 0.0 if last is None else last  # alone, a ring hangs on a line from zero
            tone = "flat" if last is None or now == need else "up" if now < need else "down"
            line(area, [now / top, need / top], [at, at], color=PAINT[tone], linewidth=3.2, alpha=0.45)
            line(area, [need / top], [at], "o", ms=7.5, mfc=PAINT["card"], mec=PAINT["muted"], mew=1.6)
            if last is not None:
                line(area, [last / top], [at], "o", ms=8, color=PAINT[tone], mec=PAINT["card"], mew=1.2)
        start = 1.12
        for tone, count in (("real", row["real"]), ("made", row["made"])):
            patch(area, (start, at - 0.31), count / most, 0.62, tone)
            start += count / most
        say(area, f"{short(row['real'])} + {short(row['made'])}", (start, at), (6, 0), "left", size=11.5)
    said = ", ".join(f"{row['name']} got {row['made']}" for row in rows)
    return figure, f"{WORDS[table['of']].capitalize()} and samples made, neediest first: {said}."
