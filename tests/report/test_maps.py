from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from counterpoise.report import page, scatter
from counterpoise.report.facts import FlatMap
from counterpoise.report.maps import maps
from counterpoise.report.page import render

HOSTILE = '<img src=x onerror=alert(1)> " quote'


def points(*rows: tuple[float, float, int]) -> dict[str, Any]:
    return {"xy": [[x, y] for x, y, _ in rows], "label": [label for _, _, label in rows]}


def lot(space: str, method: str = "PCA") -> dict[str, Any]:
    laid = {"method": method, "share": 0.5, "rarest": [2, 0]}
    laid |= {"real": points((0, 0, 2), (9, 0, 1)), "samples": points((1, 1, 0))}
    return {"space": space, "map": laid}


def marks(drawing: str, tone: str) -> dict[str, list[tuple[float, float]]]:
    """The middles of the rings and of the dots of one colour."""
    found: dict[str, list[tuple[float, float]]] = {"rings": [], "dots": []}
    for path in re.findall(rf'<path [^>]*class="s-{tone}"[^>]*>', drawing):
        kind = "rings" if 'fill="none"' in path else "dots"
        shift = scatter.RADIUS if kind == "rings" else 0
        for x, y in re.findall(r"M([-\d.]+) ([-\d.]+)", path):
            found[kind].append((round(float(x) + shift, 1), float(y)))
    return found


def test_there_is_a_map_for_each_space_with_a_panel_for_each_synthesis():
    found = {"copies": lot("ce"), "mix": lot("codes of mix"), "smote": lot("ce"), "other": lot("ce", "UMAP")}
    first, second, third = maps(found, ["a", "b", "c"], [5, 90, 3])
    assert [panel["synthesis"] for panel in first["panels"]] == ["copies", "smote"]
    assert (second["space"], third["method"]) == ("codes of mix", "UMAP")
    assert (first["classes"], first["counts"]) == (["c", "a"], [3, 5])
    assert first["real"]["label"] == [0, -1]
    assert first["panels"][0]["samples"]["label"] == [1]
    assert set(first) == set(get_type_hints(FlatMap))
    assert maps({}, [], []) == []


def test_marks_lie_where_their_rows_are_and_panels_share_one_window():
    real, near, far = points((0, 0, 0), (10, 5, -1)), points((5, 2.5, 0)), points((-4, 0, 0))
    window = scatter.Window(real["xy"], [near["xy"], far["xy"]])
    one, two = (scatter.scatter(real, made, window, 1, "alt") for made in (near, far))
    (left,), (right,) = marks(one, "c1")["rings"], marks(one, "others")["rings"]
    assert marks(two, "c1")["rings"] == [left]
    (dot,) = marks(one, "c1")["dots"]
    assert dot == pytest.approx(np.mean([left, right], 0), abs=0.11), "half-way"
    (dot,) = marks(two, "c1")["dots"]
    across, up = np.subtract(right, left)
    assert across / 10 == pytest.approx(-up / 5, rel=0.02), "one scale, and up is up"
    assert dot == pytest.approx((left[0] - 0.4 * across, left[1]), abs=0.2)


def test_a_stray_sample_is_drawn_at_the_edge_and_counted():
    real, made = [[0.0, 0.0], [1.0, 1.0]], [[0.5, 0.5], [1e6, 0.5], [-1e6, -1e6]]
    window = scatter.Window(real, [made])
    assert window.outside(made) == 2
    assert window.outside(real) == 0
    places = window.inside(window.places(made))
    assert (places >= 0).all()
    assert (places <= [scatter.WIDTH, window.height]).all()
    low, high = window.places(real)
    assert high[0] - low[0] > scatter.WIDTH / 4, "real rows are not squashed"


@pytest.mark.parametrize("real", [[[2.0, 2.0]], [[1.0, 0.0], [1.0, 9.0]], [[0.0, 3.0], [1e-9, 3.0]]])
def test_rows_on_a_line_or_in_one_place_have_a_map(real):
    for made in ([], [[5.0, 5.0]]):
        window = scatter.Window(real, [made])
        assert np.isfinite(window.places([*real, *made])).all()
        assert np.isfinite(window.height)
        assert window.outside(real) == 0


def test_the_rarest_class_lies_on_top_and_the_rest_below():
    real = points((0, 0, -1), (1, 0, 0), (2, 0, 1))
    drawing = scatter.scatter(real, real, scatter.Window(real["xy"], []), 2, "alt")
    order = re.findall(r'class="s-(\w+)"', drawing)
    assert order == ["others", "others", "c2", "c1", "c2", "c1"]


def test_names_are_escaped_and_what_is_beyond_the_edge_is_said():
    far = lot("ce")
    far["map"]["samples"] = points((1, 1, 0), (1e9, 0, 2))
    html = render({"maps": maps({HOSTILE: far}, [HOSTILE, "b", "c"], [5, 90, 3])})
    assert "<img" not in html
    assert html.count("&lt;img") >= 3
    assert "2 samples, 1 beyond the edge" in html
    assert "50 % of the variance" in html
    assert "other classes" in html
    assert 'id="map"' not in render({"maps": []})


def test_a_map_is_small():
    rng = np.random.default_rng(0)
    many = {
        "xy": (rng.normal(size=(300, 2)) * 50).round(3).tolist(),
        "label": (rng.integers(-1, 6, 300)).tolist(),
    }
    drawing = scatter.scatter(many, many, scatter.Window(many["xy"], [many["xy"]]), 6, "alt")
    assert len(drawing) < 25_000


# --- colours for all eyes -----------------------------------------------------------------------------------

#: What is left of linear RGB to eyes without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "all": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.maximum(np.array(XYZ) @ rgb / [0.95047, 1, 1.08883], 0))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_all_eyes_tell_the_colours_apart_and_from_the_ground(theme):
    block = (Path(page.__file__).parent / "style.css").read_text().split("prefers-color-scheme:dark")[theme]
    colours = dict(re.findall(r"--([\w-]+):#([0-9a-f]{6})", block))
    tones = [linear(colours[f"c{k}"]) for k in range(1, 7)]
    for eye, matrix in EYES.items():
        seen = [lab(np.clip(np.array(matrix) @ tone, 0, 1)) for tone in tones]
        for a, b in itertools.combinations(range(6), 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 24, (eye, a + 1, b + 1)
    light = [0.2126, 0.7152, 0.0722]
    ground = linear(colours["card"]) @ light
    for at, tone in enumerate(tones):
        low, high = sorted((tone @ light, ground))
        assert (high + 0.05) / (low + 0.05) >= 3, f"c{at + 1}"
