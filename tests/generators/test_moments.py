import numpy as np
import pytest

from counterpoise.data.pixels import Rows
from counterpoise.generators import moments
from counterpoise.generators.moments import Moments
from counterpoise.types import Refusal

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 3], [60, 29, 1]))  # class 2 has no row, class 3 one
X = (RNG.normal(size=(90, 6)) * [9, 3, 1, 1, 0.5, 0.1] + LABELS[:, None] + 100).astype(np.float32)
FOUND = Moments.of(X, LABELS, 4)


@pytest.mark.parametrize("chunk", [7, 90, 4096])
def test_in_chunks_is_in_one_go(chunk, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", chunk)
    order = RNG.permutation(90)
    found = Moments.of(Rows.of(X[:50], X[50:], order=order), LABELS[order], 4)
    exact, y = X[order].astype(np.float64), LABELS[order]
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.scale, exact.std(0), rtol=1e-9)
    rest = exact - np.stack(
        [exact[y == label].mean(0) if (y == label).any() else 0 * exact[0] for label in y]
    )
    np.testing.assert_allclose(found.within, rest.T @ rest / (90 - 3), rtol=1e-9, atol=1e-9)
    for label in (0, 1, 3):
        np.testing.assert_allclose(found.means[label], exact[y == label].mean(0), rtol=1e-12)
    np.testing.assert_array_equal(found.means[2], found.mean)  # nothing is known of it
    assert found.counts.tolist() == [60, 29, 0, 1]
    assert found.within.dtype == np.float64


def test_full_rank_to_its_own_class_is_the_row_itself():
    np.testing.assert_array_equal(FOUND.translate(X, LABELS, LABELS, None), X)


@pytest.mark.parametrize("energy", [None, 0.5, 0.95, 1.0])
def test_a_translated_class_has_the_mean_of_its_new_class(energy):
    mine = X[LABELS == 0]
    moved = FOUND.translate(mine, np.zeros(60, int), np.ones(60, int), energy)
    np.testing.assert_allclose(moved.mean(0), FOUND.means[1], rtol=1e-6)
    assert moved.dtype == np.float32


def test_translation_keeps_the_leading_directions_and_drops_the_others():
    moved = FOUND.translate(X, LABELS, LABELS, 0.9)
    rank = FOUND.rank(0.9)
    kept, dropped = FOUND.directions[:, :rank], FOUND.directions[:, rank:]
    rest = X - FOUND.means[LABELS]
    np.testing.assert_allclose((moved - FOUND.means[LABELS]) @ kept, rest @ kept, atol=1e-4)
    assert np.abs((moved - FOUND.means[LABELS]) @ dropped).max() < 1e-4
    assert np.abs(rest @ dropped).max() > 1


def test_rank_is_the_least_that_holds_the_energy():
    shares = FOUND.energies.cumsum() / FOUND.energies.sum()
    for energy in (0.1, 0.5, 0.95, 0.999):
        rank = FOUND.rank(energy)
        assert shares[rank - 1] >= energy
        assert rank == 1 or shares[rank - 2] < energy
    assert FOUND.rank(1.0) == 6


def test_root_squared_is_the_covariance():
    np.testing.assert_allclose(FOUND.root @ FOUND.root.T, FOUND.within, atol=1e-9)


def test_whitened_rows_have_covariance_one_within_their_classes_and_come_back():
    z = FOUND.whiten(X, LABELS)
    np.testing.assert_allclose(z.T @ z / (90 - 3), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(z[LABELS == 0].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(FOUND.colour(z, LABELS), X, rtol=1e-5)
    moved = FOUND.translate(X, LABELS, 0 * LABELS)
    np.testing.assert_allclose(FOUND.colour(z, 0 * LABELS), moved, rtol=1e-5)


def test_directions_without_variance_whiten_to_zero():
    x = np.concatenate([X, X[:, :1] * 2, np.full((90, 1), 0.3, np.float32)], 1)  # one is double, one constant
    found = Moments.of(x, LABELS, 4)
    z = found.whiten(x, LABELS)
    assert np.count_nonzero(np.abs(z).max(0) > 1e-6) == 6
    np.testing.assert_allclose(found.colour(z, LABELS), x, rtol=1e-4, atol=1e-4)


def test_constant_dimensions_have_scale_one():
    x = X.copy()
    x[:, 2] = 0.1
    x[:, 4] = 0
    assert Moments.of(x, LABELS, 4).scale[[2, 4]].tolist() == [1, 1]


def test_one_row_a_class():
    found = Moments.of(X[:4], np.arange(4), 4)
    assert not found.within.any()
    assert found.rank(0.95) == 1
    np.testing.assert_allclose(found.translate(X[:1], [0], [3], 0.95), X[3:4], rtol=1e-6)


def test_rows_that_are_not_finite_are_refused():
    x = X.copy()
    x[3, 1] = np.nan
    with pytest.raises(Refusal, match="NaN or infinity in 1 of 90 rows"):
        Moments.of(x, LABELS, 4)


def test_as_arrays_and_back():
    again = Moments.from_arrays(FOUND.arrays() | {"other": np.zeros(1)})
    np.testing.assert_array_equal(
        again.translate(X, LABELS, 0 * LABELS, 0.9), FOUND.translate(X, LABELS, 0 * LABELS, 0.9)
    )
