import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from counterpoise.metrics.calibration import (
    brier,
    classwise_error,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def drawn(temperature, n=20_000, classes=5, seed=0):
    """Labels that follow softmax(z) and logits that say z * temperature."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, classes))
    label = (softmax(z, 1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1)
    return z * temperature, label


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_temperature_is_recovered_and_calibrates(temperature, balanced):
    logits, label = drawn(temperature)
    found = fit_temperature(logits, label, balanced)
    assert found == pytest.approx(temperature, rel=0.05)
    probabilities = softmax(logits / found, 1)
    correct = probabilities.argmax(1) == label
    assert expected_calibration_error(probabilities.max(1), correct) < 0.015
    assert classwise_error(probabilities, label) < 0.01


def test_the_temperature_is_where_the_likelihood_is_best():
    logits, label = drawn(1.7, n=500)

    def nll(t):
        return -log_softmax(logits / t, 1)[np.arange(len(label)), label].mean()

    found = fit_temperature(logits, label)
    grid = np.geomspace(0.2, 20, 400)
    best = min(grid, key=nll)
    assert found == pytest.approx(best, rel=0.05), "one image in 501 is all that lies between"
    assert nll(found) < nll(1.0)


def test_balanced_weights_make_the_copies_of_a_class_count_for_nothing():
    logits, label = drawn(1.5, n=300)
    again = np.concatenate([np.arange(300), np.repeat(np.flatnonzero(label == 0), 9)])
    plain, more = (fit_temperature(logits[rows], label[rows]) for rows in (slice(None), again))
    assert abs(plain - more) > 1e-3
    balanced = [fit_temperature(logits[rows], label[rows], balanced=True) for rows in (slice(None), again)]
    assert abs(balanced[0] - balanced[1]) < abs(plain - more) / 3


@pytest.mark.parametrize("scale", [0.1, 1.0, 300.0])
def test_without_a_mistake_on_a_small_set_the_confidence_stays_below_one(scale):
    logits, label = scale * np.tile(np.eye(4), (10, 1)), np.tile(np.arange(4), 10)
    found = fit_temperature(logits, label)
    assert found == pytest.approx(scale * fit_temperature(logits / scale, label), rel=1e-3)
    # The optimum by hand: of 41 images 40 are right and one is anyone's, so that p = (40 + 1/4) / 41.
    assert softmax(logits / found, 1).max() == pytest.approx(40.25 / 41, abs=1e-4)


def test_always_wrong_becomes_undecided_and_no_opinion_stays_as_it_is():
    wrong = 5 * np.eye(3)
    assert softmax(wrong / fit_temperature(wrong, np.array([1, 2, 0])), 1).max() < 0.34
    assert fit_temperature(np.zeros((4, 3)), np.zeros(4, int)) == 1.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_the_table_holds_every_image_once_and_bounds_the_error(rows):
    confidence, correct = np.array(rows, float).T
    table = reliability(confidence, correct)
    assert sum(row["images"] for row in table) == len(rows)
    assert all(row["low"] - 1e-9 <= row["confidence"] <= row["high"] + 1e-9 for row in table)
    error = expected_calibration_error(confidence, correct)
    assert abs(confidence.mean() - correct.mean()) - 1e-9 <= error <= 1


def test_bins_are_closed_above():
    table = reliability(np.array([0.0, 0.2, 0.2001, 1.0]), np.ones(4), bins=5)
    assert [row["images"] for row in table] == [2, 1, 1]


def test_brier_of_the_perfect_the_worst_and_the_undecided():
    label = np.array([0, 1])
    assert brier(np.eye(2), label) == 0
    assert brier(np.eye(2)[::-1], label) == 2
    assert brier(np.full((2, 2), 0.5), label) == 0.5
