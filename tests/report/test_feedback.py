from __future__ import annotations

from typing import Any

import pytest

from counterpoise.report.feedback import panels, stopped, warnings


def row(name: str, **more: Any) -> dict[str, Any]:
    told = {"synthesis": name, "guides": [], "against": "", "held": None, "unfelt": None, "fidelity": 0.97}
    return (
        told | {"criterion": "entropy", "useful": 0.5, "nearest": 3.0, "validation": 80.0, "gain": {}} | more
    )


def guided(name: str, **more: Any) -> dict[str, Any]:
    return row(name, guides=["entropy × 1"], against="plain", held=0.1, unfelt=0.0) | more


def test_nothing_is_said_where_nothing_is_wrong():
    assert warnings([row("plain"), guided("a", fidelity=0.93, held=0.5, unfelt=0.05)]) == []
    assert warnings([guided("a", fidelity=None, held=None, unfelt=None)]) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"unfelt": 0.06}, "a: the teacher gave no gradient at 6 % of the noise levels"),
        ({"held": 0.51}, "a: samples were left alone at 51 % of the noise levels"),
        ({"fidelity": 0.91}, "a: guidance costs labels. The judge names the class of 91 %"),
    ],
)
def test_a_teacher_a_judge_or_a_guide_that_is_no_good_is_named(changed, said):
    (found,) = warnings([row("plain"), guided("a", **changed), guided("b")])
    assert found.startswith(said)


def test_one_sentence_speaks_of_all_that_it_is_about():
    found = warnings(
        [row("plain", fidelity=0.3), *(guided(n, held=h, fidelity=0.3) for n, h in (("a", 0.6), ("b", 0.9)))]
    )
    assert [sentence.partition(":")[0] for sentence in found] == ["a, b", "plain"]
    assert "60 to 90 %" in found[0]


def test_all_rounds_of_all_draws_are_one_sentence():
    assert stopped([{"rounds": 6, "waited": 0}] * 3, 6) == "All 6 rounds were made."
    assert stopped([{"rounds": 4, "waited": 2}], 6) == "It stopped after 4 rounds, 2 of them without gain."
    assert stopped([{"rounds": 1, "waited": 1}] * 2, 6) == "It stopped after 1 round, none of them with gain."


def swept(*rows: dict[str, Any], scales: tuple[float, ...], chosen: str = "") -> dict[str, Any]:
    points = [
        {"synthesis": one["synthesis"], "scale": scale} for one, scale in zip(rows, scales, strict=True)
    ]
    told = {"rows": rows, "slices": ["all"]}
    return {panel["title"]: panel for panel in panels(told, {"points": points, "chosen": chosen})}


def test_each_measure_has_its_panel_and_gains_begin_at_zero():
    gain = {"all": {"mean": 1.5, "low": -1.0, "high": 4.0, "p": 0.2}}
    found = swept(row("plain"), guided("a", gain=gain), guided("b", gain=gain), scales=(0, 1, 10), chosen="b")
    assert list(found) == [
        "entropy, by the teacher",
        "label fidelity, %",
        "nearest real, copy thresholds",
        "validation accuracy, %",
        "gain on all, points",
    ]
    assert found["label fidelity, %"]["values"] == [97.0] * 3
    last = found["gain on all, points"]
    assert (last["scales"], last["values"]) == ([0, 1, 10], [0, 1.5, 1.5])
    assert last["ends"] == [None, (-1.0, 4.0), (-1.0, 4.0)]
    assert {panel["chosen"] for panel in found.values()} == {10}


def test_criteria_of_different_kinds_are_not_drawn_as_one():
    found = swept(
        row("plain"), guided("a", criterion="loss"), guided("b", criterion="loss"), scales=(0, 1, 10)
    )
    assert found["loss, by the teacher"]["scales"] == [1, 10]
    assert found["validation accuracy, %"]["scales"] == [0, 1, 10]


def test_what_was_not_measured_has_no_panel_and_no_interval_where_trials_bound_nothing():
    gain = {"all": {"mean": 1.5, "low": None, "high": None, "p": 1.0}}
    found = swept(*(guided(n, nearest=None, gain=gain) for n in "ab"), scales=(1, 10))
    assert "nearest real, copy thresholds" not in found
    assert found["gain on all, points"]["ends"] == [None, None]
    assert found["gain on all, points"]["values"] == [1.5, 1.5], "no zero without unguided samples"
