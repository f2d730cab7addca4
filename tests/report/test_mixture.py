from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from counterpoise.report.facts import Mixture
from counterpoise.report.mixture import mixture

NAMES, COUNTS = ["rare", "frequent", "absent"], [5, 95, 0]


def summary(**more: Any) -> dict[str, Any]:
    return {
        "responsibility_entropy_nats": 0.11,
        "responsibility_entropy_share": 0.1,
        "component_use_argmax": [0.05, 0.95, 0.0],
        "component_use_mean": [0.06, 0.93, 0.01],
        "between_within_variance": 1.9,
        "mean_posterior_variance": 0.8,
        "active_dimensions": 12,
        "translation_rank": 7,
        "losses": {"classification": 0.1, "reconstruction": 0.2, "kl": 3.0},
    } | more


def told(log: Any = (), **more: Any) -> dict[str, Any]:
    return mixture(["mix"], summary(**more), log, NAMES, COUNTS)


@pytest.mark.parametrize(
    ("changed", "word", "said"),
    [
        ({}, "no", "has not collapsed: the responsibilities for a code have an entropy of 0.11 nats, 10 % "),
        ({"responsibility_entropy_share": 0.98}, "wholly", "mixture has collapsed"),
        ({"component_use_argmax": [0.0, 1.0, 0.0]}, "partly", "1 of 3 components are the likeliest of no"),
        ({"active_dimensions": 0}, "wholly", "codes have collapsed"),
    ],
)
def test_the_sentence_says_whether_it_collapsed(changed, word, said):
    found = told(**changed)
    assert found["collapsed"] == word
    assert said in found["sentence"]


def test_a_class_without_images_need_no_component():
    assert told()["unused"] == []
    assert told(component_use_argmax=[0.0, 1.0, 0.0])["unused"] == ["rare"]


def test_shares_follow_the_classes_from_the_most_frequent_on():
    found = told()
    assert found["use"]["classes"] == ["frequent", "rare", "absent"]
    assert [arm["shares"] for arm in found["use"]["arms"]] == [
        [0.95, 0.05, 0.0],
        [0.95, 0.05, 0.0],
        [0.93, 0.06, 0.01],
    ]
    assert set(found) == set(get_type_hints(Mixture))


def test_each_term_has_its_curve_and_a_resumed_training_repeats_no_step():
    def row(step: int, kl: float) -> dict[str, float]:
        return {"step": step, "of": 300, "classification": 1.0, "reconstruction": 2.0, "kl": kl, "total": 9.0}

    log = [row(100, 8.0), row(200, 5.0), row(200, 4.0), row(300, 3.0)]
    curves = {curve["term"]: curve for curve in told(log)["curves"]}
    assert list(curves) == ["classification", "reconstruction", "kl"]
    assert (curves["kl"]["steps"], curves["kl"]["values"]) == ([100, 200, 300], [8.0, 4.0, 3.0])
    assert told()["curves"] == []
