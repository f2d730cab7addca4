from __future__ import annotations

import itertools

import numpy as np
import pytest

from counterpoise.metrics.kernel import kid


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair."""

    def mean(pairs):
        return np.mean([(a @ b / len(a) + 1) ** 3 for a, b in pairs])

    return (
        mean(itertools.permutations(x, 2))
        + mean(itertools.permutations(y, 2))
        - 2 * mean(itertools.product(x, y))
    )


def test_it_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), rng.normal(1, 2, size=(12, 4))
    assert kid(x, y)[0] == pytest.approx(plain(x, y), rel=1e-12)
    assert kid(x[::-1], y, seed=5)[0] == pytest.approx(plain(x, y), rel=1e-12), "whatever the order"


def test_alike_sets_score_zero_on_average_and_its_error_says_how_far_from_it():
    rng = np.random.default_rng(1)
    found = np.array([kid(*rng.normal(size=(2, 30, 8))) for _ in range(400)])
    values, errors = found.T
    assert abs(values.mean()) < 3 * values.std() / 20, "unbiased, unlike the Frechet distance"
    assert (values < 0).any()
    assert 1 < errors.mean() / values.std() < 1.7, "too large by the root of two where nothing differs"


def test_its_error_is_right_where_something_differs():
    rng = np.random.default_rng(2)
    found = np.array([kid(rng.normal(size=(40, 6)), rng.normal(0.7, 1, size=(40, 6))) for _ in range(400)])
    values, errors = found.T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_subsets_agree_with_the_whole_within_their_error():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(600, 6)), rng.normal(0.3, 1, size=(600, 6))
    whole, parts = kid(x, y), kid(x, y, subset=100)
    assert whole[0] == pytest.approx(parts[0], abs=3 * parts[1])
    assert parts[1] == pytest.approx(whole[1], rel=0.4)
    assert kid(x, y[:100])[0] == pytest.approx(whole[0], abs=4 * kid(x, y[:100])[1])
