from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from counterpoise.report import dials


def texts(drawing: str) -> list[str]:
    return [unescape(found) for found in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


def markers(drawing: str) -> list[float]:
    """x of every round mark, from left to right."""
    return sorted(float(x) for x in re.findall(r'd="M 0 3.5[^>]*translate\(([-\d.]+) ', drawing))


def panel(scales: list[float], values: list[float], **more: Any) -> dict[str, Any]:
    told = {"title": "a measure", "scales": scales, "values": values, "ends": [None] * len(scales)}
    return told | {"chosen": None, "least": 1.0, "sign": False} | more


def test_scales_stand_at_their_powers_of_ten_and_zero_apart_at_the_left():
    drawing = dials.dial(panel([0.0, 0.3, 3.0, 30.0], [1.0, 2.0, 3.0, 4.0]))
    zero, *rest = markers(drawing)
    assert rest[1] - rest[0] == pytest.approx(rest[2] - rest[1], abs=0.1)
    assert zero < rest[0] - 5
    assert {"0", "0.3", "3", "30"} <= set(texts(drawing))
    assert "1 at 0, 2 at 0.3, 3 at 3, 4 at 30" in drawing


def test_many_scales_are_all_drawn_and_some_are_written():
    scales = [2.0**k for k in range(20)]
    drawing = dials.dial(panel(scales, scales))
    assert len(markers(drawing)) == 20
    assert len([text for text in texts(drawing) if text in {f"{scale:g}" for scale in scales}]) <= 7


def test_the_chosen_scale_is_shaded_and_only_that():
    shaded = dials.dial(panel([1.0, 10.0], [5.0, 6.0], chosen=10.0))
    assert len(re.findall(r'class="f-heat"', shaded)) == 1
    assert "f-heat" not in dials.dial(panel([1.0, 10.0], [5.0, 6.0]))


def test_differences_too_small_to_matter_do_not_fill_the_axis():
    flat = dials.dial(panel([1.0, 10.0], [5.0, 5.001], least=1.0))
    heights = [float(y) for y in re.findall(r'd="M 0 3.5[^>]*translate\([-\d.]+ ([-\d.]+)', flat)]
    assert max(heights) - min(heights) < 1


def draws(*histories: list[float]) -> list[dict[str, Any]]:
    return [{"history": list(one), "learnt": [10 * k for k in range(len(one))]} for one in histories]


def test_the_mean_goes_as_far_as_every_draw_does():
    drawing = dials.practice(draws([50, 60, 70, 80], [52, 58]))
    said = texts(drawing)
    assert {"0", "1", "2", "3", "10", "20", "30", "round", "samples"} <= set(said)
    assert "over 2 tutors of 2 draws, from 51.0 to 59.0" in drawing
    assert len(re.findall(r's-muted"', drawing)) >= 2, "a thin line of each draw"


def test_one_draw_and_one_round_can_be_drawn():
    assert "1 tutors of 1 draws, 50.0 per cent" in dials.practice(draws([50.0]))


def test_many_draws_do_not_fill_the_page():
    many = dials.practice(draws(*[[50.0 + k / 9, 60.0] for k in range(500)]))
    assert len(many) < 60_000


def need(name: str, need: float | None, last: float | None, real: int, made: int) -> dict[str, Any]:
    return {"name": name, "need": need, "last": last, "real": real, "made": made}


def test_needs_stand_beside_what_was_made():
    rows = [
        need("<b>rare</b>", 0.9, 0.4, 2, 30),
        need("other", 0.2, 0.3, 40, 0),
        need("unseen", None, None, 1, 5),
    ]
    drawing = dials.needs({"of": "error", "rows": rows})
    said = texts(drawing)
    assert {"<b>rare</b>", "2 + 30", "40 + 0", "no validation images", "100 %"} <= set(said)
    assert "<b>" not in drawing
    assert len(re.findall(r'class="f-made', drawing)) == 3, "a bar each, none of them empty"
    assert 'class="s-up"' in drawing
    assert 'class="s-down"' in drawing


def test_nats_have_an_axis_of_their_own():
    drawing = dials.needs({"of": "loss", "rows": [need("a", 2.4, None, 1, 1), need("b", 1.2, None, 1, 1)]})
    assert {"0", "1.2", "2.4"} <= set(texts(drawing))
