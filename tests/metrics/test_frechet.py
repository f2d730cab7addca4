from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from counterpoise.metrics.frechet import Statistics, frechet


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3).astype(np.float32)


def test_of_gaussians_it_is_the_closed_form():
    """Diagonal covariances: sum of (m - m')^2 + (s - s')^2."""
    rng = np.random.default_rng(0)
    m, other_m = rng.normal(size=(2, 6))
    s, other_s = rng.uniform(0.1, 3, size=(2, 6))
    a, b = Statistics(101, m, 100 * np.diag(s**2)), Statistics(51, other_m, 50 * np.diag(other_s**2))
    assert frechet(a, b) == pytest.approx(((m - other_m) ** 2 + (s - other_s) ** 2).sum(), rel=1e-12)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-12)


def test_it_is_that_of_the_matrix_root_where_there_is_one():
    a, b = Statistics.of(rows(500, 12, 1)), Statistics.of(rows(400, 12, 2))
    root = sqrtm(a.covariance @ b.covariance).real
    plain = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet(a, b) == pytest.approx(plain, rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(300, 10), (20, 64), (2, 64)])
def test_a_set_is_at_no_distance_from_itself_even_where_its_covariance_is_singular(n, d):
    x = rows(n, d)
    assert frechet(Statistics.of(x), Statistics.of(x[::-1])) < 1e-9 * np.trace(Statistics.of(x).covariance)
    moved = frechet(Statistics.of(x), Statistics.of(x.astype(np.float64) + 2))
    assert moved == pytest.approx(4 * d, rel=1e-6)


def test_constant_features_are_points():
    a, b = Statistics.of(np.zeros((9, 3))), Statistics.of(np.full((9, 3), 2.0))
    assert frechet(a, b) == pytest.approx(12)
    assert frechet(a, a) == 0


def test_parts_add_up_to_the_whole_in_any_order():
    x = rows(257, 9) + 1e4  # far from zero: sums of squares would lose it
    whole = Statistics.of(x)
    for batches in ([x[:1], x[1:100], x[100:]], [x[i : i + 16] for i in range(0, 257, 16)][::-1]):
        added = Statistics.stream(batches)
        assert added.n == 257
        np.testing.assert_allclose(added.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(
            added.scatter, whole.scatter, rtol=1e-9, atol=1e-9 * np.abs(whole.scatter).max()
        )
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-6)
