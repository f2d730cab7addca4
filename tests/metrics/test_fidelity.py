from __future__ import annotations

import json

import numpy as np
import pytest

from counterpoise.metrics import fidelity as module
from counterpoise.metrics.fidelity import (
    MEASURES,
    by_band,
    fidelity,
    floor,
    inception_score,
    matched,
    some_of,
)


def normal(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_a_set_beside_itself_is_faultless():
    x = normal(150)
    found = fidelity(x, x)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["fd"] < 1e-6
    assert (found["f8"], found["f1_8"]) == pytest.approx((1, 1), abs=1e-3)
    assert found["kid"] <= 0, "rows that are in both sets push it below zero"
    assert found["undefined"] == {}
    json.dumps(found, allow_nan=False)


def test_new_rows_of_the_same_kind_lie_at_the_floor_and_others_above():
    found = [fidelity(normal(200, seed=2 * i), normal(200, seed=2 * i + 1)) for i in range(6)]
    assert found[0]["floor_n"] == 100
    for name, margin in (
        ("fd", 0.2),
        ("precision", 0.05),
        ("recall", 0.05),
        ("density", 0.1),
        ("coverage", 0.05),
    ):
        samples, real = (
            np.mean([each["floor"][side][name] for each in found]) for side in ("samples", "real")
        )
        assert samples == pytest.approx(real, rel=margin)
    assert np.mean([each["floor"]["real"]["fd"] for each in found]) > 0.2, "chance alone"
    assert abs(np.mean([each["kid"] / each["kid_error"] for each in found])) < 1.5
    low, high = found[0]["recall_interval"]
    assert low < found[0]["recall"] < high
    unlike = fidelity(normal(200) * 1.5, normal(200, seed=1))
    assert unlike["floor"]["samples"]["fd"] > 2 * unlike["floor"]["real"]["fd"]
    assert unlike["floor"]["samples"]["precision"] < 0.8 * unlike["floor"]["real"]["precision"]
    assert unlike["kid"] > 3 * unlike["kid_error"] > 0


@pytest.mark.parametrize(
    ("n", "dim", "told"),
    [
        (6, 8, {module.SINGULAR, module.ROUGH, module.CROWDED}),
        (40, 8, {module.BIASED, module.ROUGH, module.CROWDED}),
        (110, 64, {module.SINGULAR}),
        (110, 8, {module.BIASED}),
        (300, 8, set()),
    ],
)
def test_it_says_what_the_numbers_are_too_small_for(n, dim, told, monkeypatch):
    """By the halves, which are the smallest that anything is measured at."""
    monkeypatch.setattr(module, "ENOUGH_FD", 150)
    found = fidelity(normal(n, dim), normal(n, dim, 1), splits=1)
    assert set(found["warnings"]) == told
    assert found["k"] == min(5, n // 5)
    assert (found["n_fake"], found["n_real"], found["dim"]) == (n, n, dim)


def test_the_floor_rises_where_there_are_fewer_rows():
    real = normal(200)
    many, few = floor(normal(200, seed=1), real, splits=8), floor(normal(30, seed=1), real, splits=8)
    assert few["real"]["fd"] > 2 * many["real"]["fd"]
    assert few["samples"]["fd"] == pytest.approx(few["real"]["fd"], rel=0.5)


def test_some_of_a_class_are_the_first_of_more_of_it():
    labels = np.arange(60) % 3
    few, more = some_of(labels, {0: 2, 1: 5}, 7), some_of(labels, {1: 9, 2: 99}, 7)
    assert np.bincount(labels[few]).tolist() == [2, 5]
    assert np.bincount(labels[more]).tolist() == [0, 9, 20]
    assert set(few[labels[few] == 1]) <= set(more)


def test_sides_of_unlike_size_are_told():
    assert module.UNEVEN in fidelity(normal(300), normal(100))["warnings"]


@pytest.mark.parametrize(("n", "m"), [(0, 50), (4, 50), (50, 4), (1, 1)])
def test_too_few_rows_give_none_with_a_reason_and_never_zero(n, m):
    found = fidelity(normal(n), normal(m))
    assert set(found["undefined"]) == set(MEASURES)
    assert all(found[name] is None for name in MEASURES)
    assert found["undefined"]["fd"] == module.TOO_FEW
    assert (found["n_fake"], found["n_real"]) == (n, m)


def test_real_rows_that_cannot_be_halved_leave_the_rest_defined():
    found = fidelity(normal(9), normal(9, seed=1))
    assert found["undefined"] == {"floor": module.NO_HALVES}
    assert found["floor"] is None
    assert found["fd"] > 0
    assert found["recall"] is not None


def test_both_sides_give_the_same_number_from_each_class():
    fake, real = np.array([2] * 9 + [1] * 3 + [0]), np.array([0] * 5 + [1] * 5 + [2] * 5 + [3] * 5)
    here, there = matched(fake, real, [0, 1, 2, 3])
    assert np.bincount(fake[here]).tolist() == np.bincount(real[there]).tolist() == [1, 3, 5]
    again = matched(fake[here], real[there], [0, 1, 2, 3])
    assert [len(rows) for rows in again] == [9, 9], "matching what is matched leaves all of it"
    only, _ = matched(fake, real, [1])
    assert set(only) <= set(here), "the rows of a class do not depend on the other classes"


def test_other_class_shares_are_not_taken_for_bad_samples():
    """Samples that fill up a tail, each as good as a real row."""
    rng = np.random.default_rng(0)
    centres = 8 * np.eye(4, 6)
    labels = [np.repeat(range(4), counts) for counts in ((5, 30, 80, 200), (60, 60, 60, 60))]
    fake, real = (centres[each] + rng.normal(size=(len(each), 6)) for each in labels)
    bands = {"many": [0], "medium": [1, 2], "few": [3]}
    found = by_band(fake, labels[0], real, labels[1], bands)
    assert list(found) == ["all", "many", "medium", "few"]
    assert [found[name]["n_fake"] for name in found] == [155, 5, 90, 60]
    assert found["all"]["n_real"] == 155
    assert found["all"]["classes"] == 4
    assert found["all"]["floor"]["samples"]["fd"] < 2 * found["all"]["floor"]["real"]["fd"]
    assert fidelity(fake, real)["fd"] > 5 * found["all"]["fd"]


def test_a_band_without_samples_is_there_and_says_so():
    labels = np.repeat([0, 1], 20)
    found = by_band(normal(20), labels[20:], normal(40), labels, {"many": [0], "few": [1]})
    assert found["many"]["fd"] is None
    assert found["many"]["undefined"]["fd"] == module.TOO_FEW
    assert (found["many"]["n_fake"], found["many"]["classes"]) == (0, 0)
    assert found["few"]["fd"] > 0


def test_the_inception_score_is_the_number_of_classes_at_best_and_one_at_worst():
    assert inception_score(np.eye(7)[np.arange(700) % 7])[0] == pytest.approx(7, rel=0.1)
    assert inception_score(np.full((90, 4), 0.25)) == pytest.approx((1, 0))
    assert inception_score(np.eye(3)[np.zeros(60, int)]) == pytest.approx((1, 0))
    found = fidelity(normal(60), normal(60, seed=1), probabilities=np.full((60, 4), 0.25))
    assert found["inception_score"] == pytest.approx(1)
