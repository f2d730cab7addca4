"""From a matplotlib figure to an SVG fragment that may stand inside a page with a strict security policy.

matplotlib writes ``style`` attributes and a global ``<style>``: a page that forbids inline styles would drop
both. So styles become presentation attributes, and colours become classes, which lets the page recolour a
figure in the dark. Text stays text. Knows nothing about what is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec
from xml.etree import ElementTree as ET

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from counterpoise.report.names import plain

P = ParamSpec("P")

#: Colours are placeholders: each becomes the class ``f-NAME`` (fill) or ``s-NAME`` (stroke) of the style sheet.
PAINT = {
    "ink": "#000001",
    "muted": "#000002",
    "line": "#000003",
    "real": "#000004",
    "made": "#000005",
    "up": "#000006",
    "down": "#000007",
    "flat": "#000008",
    "heat": "#000009",
    "card": "#00000a",
}
NAMES = {value: key for key, value in PAINT.items()}

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterpoise",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],  # shipped with matplotlib: the layout does not depend on the machine
    "font.size": 12.0,
    "path.simplify": True,
    "axes.unicode_minus": True,
}

#: What in a style attribute the page's own style sheet decides, or what is the default anyway.
DROPPED = {"font-family", "stroke-miterlimit", "stroke-linejoin", "stroke-linecap"}


def drawn(draw: Callable[P, tuple[Figure, str]]) -> Callable[P, str]:
    """Make a function that returns (figure, what it shows in a sentence) return the finished SVG fragment."""

    @wraps(draw)
    def finished(*args: P.args, **kwargs: P.kwargs) -> str:
        with warnings.catch_warnings(), matplotlib.rc_context(SETTINGS):
            # Names may hold letters that matplotlib's font lacks; the browser has its own fonts for them.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
            figure, alt = draw(*args, **kwargs)
            sink = io.StringIO()
            FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
        return tidy(sink.getvalue(), alt)

    return finished


def sheet(
    width: float, height: float, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, Axes]:
    """An empty figure of this many pixels and its one area, inset by these margins, without frame or ticks."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    area = figure.add_axes(box)
    area.set_axis_off()
    return figure, area


def tidy(text: str, alt: str) -> str:
    """The SVG without metadata, ids, references, clips, style attributes and fixed colours."""
    root = ET.fromstring(text)  # noqa: S314  # matplotlib wrote it, from text that went through `plain`
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
    shapes = {path.attrib["id"]: path.attrib["d"] for path in root.iter("path") if "id" in path.attrib}
    kept = ET.Element("svg", {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": plain(alt)})
    _flatten(root, kept, shapes)
    return ET.tostring(kept, encoding="unicode")


def _flatten(element: ET.Element, into: ET.Element, shapes: Mapping[str, str]) -> None:
    """Paths and texts in drawing order, without groups. A marker is drawn where it was only referred to,
    because a page holds many drawings and their ids would clash."""
    if element.tag in {"metadata", "defs", "style"}:
        return
    for child in element:
        _flatten(child, into, shapes)
    if element.tag == "use":
        at = _rounded(f"translate({float(element.attrib['x'])} {float(element.attrib['y'])})")
        found = ET.SubElement(into, "path", {"d": shapes[element.attrib["href"][1:]], "transform": at})
    elif element.tag in {"path", "text"}:
        found = ET.SubElement(into, element.tag)
        found.attrib |= {name: element.attrib[name] for name in ("d", "x", "y") if name in element.attrib}
        found.text = element.text if element.tag == "text" else None
        if not element.attrib.get("transform", "rotate(-0 ").startswith("rotate(-0 "):
            found.set("transform", element.attrib["transform"])
    else:
        return
    for name, value in found.attrib.items():
        found.set(name, _rounded(" ".join(value.split())))
    _restyle(found, element.attrib.get("style", ""))


def _rounded(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)


def _restyle(element: ET.Element, style: str) -> None:
    classes = []
    for rule in filter(None, style.split(";")):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name in {"fill", "stroke"} and value in NAMES:
            classes.append(f"{name[0]}-{NAMES[value]}")
        elif name not in DROPPED:
            element.set(name, value.removesuffix("px"))
    if classes:
        element.set("class", " ".join(classes))
