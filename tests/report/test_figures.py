from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.report import figures, names, svg


def texts(drawing: str) -> list[str]:
    return [unescape(found) for found in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


def paths(drawing: str, paint: str) -> int:
    return len(re.findall(rf'<path [^>]*class="{paint}[ "]', drawing))


def classes(number: int) -> list[dict[str, Any]]:
    return [
        {"name": f"class {k}", "train": 2000 // (k + 1), "after": 2000 // (k + 1) + 50 * (k > 5)}
        for k in range(number)
    ]


def test_every_class_has_its_bar_its_name_and_its_number() -> None:
    drawing = figures.counts(classes(9))
    assert [text for text in texts(drawing) if text.startswith("class")] == [f"class {k}" for k in range(9)]
    assert {"2,000", "250 + 50"} <= set(texts(drawing))
    assert paths(drawing, "f-real") == 9
    assert paths(drawing, "f-made") == 3


def test_recalls_are_sorted_by_count_and_say_the_difference() -> None:
    rows = [
        {"name": "rare", "count": 3, "before": 40.0, "after": 62.5},
        {"name": "frequent", "count": 300, "before": 98.0, "after": 97.0},
    ]
    said = texts(figures.recalls(rows))
    assert said.index("frequent") < said.index("rare")
    assert {"+22.5", "−1.0", "100 %"} <= set(said)
    assert "1 of 2 classes rise, 1 fall" in figures.recalls(rows)


def test_an_interval_is_drawn_to_scale() -> None:
    row = {"name": "arm", "mean": 2.0, "low": 1.0, "high": 3.0, "verdict": "helps", "role": "candidate"}
    wide = {**row, "low": -2.0, "high": 6.0, "verdict": "no evidence"}
    drawing = figures.forest([row, wide])
    spans = [
        [float(number) for number in re.findall(r"[-\d.]+", found)][::2]
        for found in re.findall(r'<path d="M ([^"]*)"[^>]*stroke-width="2.4"', drawing)
    ]
    (a, b), (c, d) = spans
    assert (d - c) / (b - a) == pytest.approx(4, rel=1e-3)
    assert a + b == pytest.approx(c + d, rel=1e-3)  # the same middle
    assert {"+2.0  (+1.0 to +3.0)", "+2.0  (−2.0 to +6.0)"} <= set(texts(drawing))


def test_the_opponent_is_the_reference_and_has_no_interval() -> None:
    drawing = figures.forest([{"name": "softmax", "role": "opponent"}, {"name": "unknown", "mean": None}])
    assert {"reference", "not measured"} <= set(texts(drawing))
    assert 'stroke-width="2.4"' not in drawing


def test_a_curve_has_an_axis_of_its_own_and_powers_of_ten_where_it_falls_far() -> None:
    flat = figures.descent("kl", [100, 200, 300], [4.0, 3.0, 2.0])
    steep = figures.descent("classification", [100, 200, 300], [2.0, 0.02, 0.0002])
    assert {"0", "2", "4", "300 steps"} <= set(texts(flat))
    assert {"1", "0.01", "0.001"} <= set(texts(steep))
    assert "from 4 to 2" in flat
    assert "300 steps" in figures.descent("kl", [300], [0.0]), "a training of a few steps has one number"


def test_cells_show_per_cent_and_never_cover_their_number() -> None:
    drawing = figures.cells([[1.0, 0.0], [0.25, 0.75]], ["a", "b"], ["a", "b"])
    assert {"100", "25", "75"} <= set(texts(drawing))
    assert "0" not in texts(drawing)
    assert max(float(found) for found in re.findall(r'opacity="([\d.]+)"', drawing)) <= 0.7


@pytest.mark.parametrize("width", [760, 344])
def test_a_thousand_classes_become_a_small_curve(width: int) -> None:
    recall = [
        {"name": f"c{k}", "count": 2000 // (k + 1), "before": k % 100, "after": (k + 3) % 100}
        for k in range(1000)
    ]
    for drawing in (figures.counts(classes(1000), width), figures.recalls(recall, width)):
        assert len(drawing) < 12_000
        assert {"most frequent class", "rarest"} <= set(texts(drawing))
        assert "1000 classes are drawn as a curve" in drawing


NAMED = {
    "counts": lambda name: figures.counts([{"name": name, "train": 3, "after": 9}]),
    "recalls": lambda name: figures.recalls([{"name": name, "count": 3, "before": 1.0, "after": 2.0}]),
    "forest": lambda name: figures.forest(
        [{"name": name, "mean": 1.0, "low": 0.5, "high": 2.0, "verdict": "helps"}]
    ),
    "cells": lambda name: figures.cells([[1.0]], [name], [name]),
    "descent": lambda name: figures.descent(name, [1, 2], [2.0, 1.0]),
    "stacks": lambda name: figures.stacks([name], [("real", [1.0])], ["1"], name),
}


@pytest.mark.parametrize("kind", NAMED)
@settings(deadline=None, max_examples=10)
@given(name=st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_name_breaks_a_drawing(kind: str, name: str) -> None:
    """Any text at all: no warning (they are errors here), no markup of its own, encodable, and shown as it is."""
    drawing = NAMED[kind](name)
    drawing.encode()
    assert set(re.findall(r"<(/?\w+)", drawing)) <= {"svg", "/svg", "path", "text", "/text"}
    assert not re.search(r"\s(on\w+|style|href|id)=", re.sub(r'"[^"]*"', '""', drawing))
    shown = names.shorten(name, 8).rstrip("…").strip()
    said = [*texts(drawing), *map(unescape, re.findall(r'aria-label="([^"]*)"', drawing))]
    assert any(text.strip().startswith(shown) for text in said) or "…" in said


def test_dollars_are_not_mathematics() -> None:
    assert "$x^2$ \\frac" in texts(NAMED["counts"]("$x^2$ \\frac"))


def test_a_drawing_has_no_colour_style_or_id_of_its_own() -> None:
    drawing = "".join(draw("plain") for draw in NAMED.values())
    assert not re.search(r"#[0-9a-f]{3,6}|style=|id=|url\(|href|http|clip", drawing)
    used = set(re.findall(r"\b[fs]-(\w+)", drawing))
    assert used <= set(svg.PAINT)


def test_the_same_rows_give_the_same_bytes() -> None:
    assert [draw("x") for draw in NAMED.values()] == [draw("x") for draw in NAMED.values()]


@given(st.text(st.characters(exclude_categories=()), max_size=80), st.integers(2, 30))
def test_a_shortened_name_fits_and_a_short_one_is_kept(text: str, columns: int) -> None:
    short = names.shorten(text, columns)
    assert len(short) <= 4 * columns
    assert names.columns_of(short) <= columns + 1
    assert short == names.plain(text) or short.endswith("…")
    assert names.plain(short) == short
