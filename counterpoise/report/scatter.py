"""A map of real and made rows as one small SVG: rings and dots, a path for all marks of one kind.

Written without matplotlib, which spends a path of 300 bytes on every single mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from counterpoise.report.names import plain

WIDTH, EDGE, RADIUS = 360, 12.0, 3.4  # pixels
FLATTEST, TALLEST = 0.6, 0.8  # height over width
FARTHEST = 0.5  # how far from real rows a sample is still shown in its place, in widths of these
OTHERS = "others"  # the colour of the classes that are not told apart


Points = Sequence[Sequence[float]]


class Window:
    """The part of the plane that all panels of a map show: every real row, and the samples that are not far away."""

    def __init__(self, real: Points, samples: Sequence[Points]) -> None:
        here = np.reshape(real, (-1, 2))
        made = np.concatenate([np.zeros((0, 2)), *(np.reshape(each, (-1, 2)) for each in samples)])
        self.low, high = here.min(0), here.max(0)
        if len(made):
            room = FARTHEST * (high - self.low)
            low, high = np.minimum(self.low, made.min(0)), np.maximum(high, made.max(0))
            self.low, high = np.maximum(low, here.min(0) - room), np.minimum(high, here.max(0) + room)
        across, up = high - self.low
        # One scale for both axes: a distance means the same in every direction.
        self.scale = (WIDTH - 2 * EDGE) / max(across, up / TALLEST, 1e-12)
        self.height = np.clip(up * self.scale + 2 * EDGE, FLATTEST * WIDTH, None)
        self.shift = (np.array([WIDTH, self.height]) - (high - self.low) * self.scale) / 2

    def places(self, xy: Points) -> np.ndarray:
        """Pixels from the top left, (n, 2)."""
        at = (np.reshape(xy, (-1, 2)) - self.low) * self.scale + self.shift
        return np.stack([at[:, 0], self.height - at[:, 1]], 1)

    def inside(self, places: np.ndarray) -> np.ndarray:
        """What lies farther out is drawn at the edge."""
        return np.clip(places, RADIUS, [WIDTH - RADIUS, self.height - RADIUS])

    def outside(self, xy: Points) -> int:
        places = self.places(xy)
        return int((self.inside(places) != places).any(1).sum())


def scatter(
    real: Mapping[str, Any], samples: Mapping[str, Any], window: Window, classes: int, alt: str
) -> str:
    """Samples as dots, real rows as rings on top of them; the rarest class above the others."""
    size = {"viewBox": f"0 0 {WIDTH} {window.height:.1f}"}
    drawing = ET.Element("svg", size | {"role": "img", "aria-label": plain(alt)})
    dot = {"stroke-width": f"{2 * RADIUS:g}", "stroke-linecap": "round", "opacity": "0.7"}
    ring = {"stroke-width": "1.4", "fill": "none"}
    for labels in ([-1], range(classes - 1, -1, -1)):
        for points, draw, style in ((samples, _dot, dot), (real, _ring, ring)):
            for label in labels:
                mine = [xy for xy, its in zip(points["xy"], points["label"], strict=True) if its == label]
                if mine:
                    marks = "".join(map(draw, window.inside(window.places(mine))))
                    tone = OTHERS if label < 0 else f"c{label + 1}"
                    ET.SubElement(drawing, "path", {"d": marks, "class": f"s-{tone}", **style})
    return ET.tostring(drawing, encoding="unicode")


def _ring(at: np.ndarray) -> str:
    across = f"{2 * RADIUS:g}"
    turn = f"a{RADIUS:g} {RADIUS:g} 0 1 0 "
    return f"M{at[0] - RADIUS:.1f} {at[1]:.1f}{turn}{across} 0{turn}-{across} 0"


def _dot(at: np.ndarray) -> str:
    """A line of no length: its round ends are the dot."""
    return f"M{at[0]:.1f} {at[1]:.1f}h.01"
