from __future__ import annotations

import numpy as np
import pytest

from counterpoise.metrics.prd import cluster, curve, f_scores, prd


def blobs(which: list[int], each: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([20 * np.eye(5)[c] + rng.normal(size=(each, 5)) for c in which]).astype(np.float32)


def test_of_a_set_and_itself_both_are_one():
    x = blobs([0, 1, 2], 50, 0)
    assert prd(x, x[::-1], runs=3) == pytest.approx((1, 1), abs=1e-3)


def test_which_is_which():
    """Half the modes: precise, and not complete. Twice the modes: the other way round. (Some code has them reversed.)"""
    half, whole = blobs([0, 1], 80, 1), blobs([0, 1, 2, 3], 40, 2)
    recall, precision = prd(half, whole, clusters=4, runs=3)
    assert precision > 0.9
    assert recall < 0.6
    recall, precision = prd(whole, half, clusters=4, runs=3)
    assert precision < 0.6
    assert recall > 0.9


def test_the_curve_of_two_histograms_is_the_one_of_the_definition():
    fake, real = np.array([0.5, 0.5, 0, 0]), np.array([0.25, 0.25, 0.25, 0.25])
    alpha, beta = curve(fake, real)
    assert alpha.max() == pytest.approx(1, abs=1e-2)
    assert beta.max() == pytest.approx(0.5, abs=1e-2)
    recall, precision = f_scores(alpha, beta)
    # lambda = 2 gives alpha = 1 and beta = 1/2, the corner of the curve
    assert recall == pytest.approx(65 * 0.5 / (64 + 0.5), abs=2e-3)
    assert precision == pytest.approx((1 + 1 / 64) * 0.5 / (1 / 64 + 0.5), abs=2e-3)
    assert f_scores(*curve(fake, np.array([0, 0, 0.5, 0.5]))) == (0, 0)


def test_clusters_find_what_is_apart_and_survive_equal_rows():
    x = blobs([0, 1, 2, 3], 30, 3)
    found = cluster(x, 4, np.random.default_rng(0)).reshape(4, 30)
    assert sorted(row[0] for row in found) == [0, 1, 2, 3]
    assert (found == found[:, :1]).all()
    assert set(cluster(np.ones((6, 2), np.float32), 3, np.random.default_rng(0))) == {0}
