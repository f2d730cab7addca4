"""Principal components against scikit-learn's, in both shapes, and where there is no variance to find."""

import tracemalloc

import numpy as np
import pytest
from sklearn.decomposition import PCA

from counterpoise.spaces import projection
from counterpoise.spaces.projection import Projection
from counterpoise.types import Refusal


def rows_of(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(d, d)) * 0.8 ** np.arange(d)[:, None]
    return (rng.normal(size=(n, d)) @ mixing + 40 * rng.normal(size=d)).astype(np.float32)


@pytest.mark.parametrize("numbers", [1 << 22, 97], ids=["whole", "in pieces"])
@pytest.mark.parametrize(("n", "d", "k"), [(200, 30, 8), (200, 30, 30), (20, 90, 7)])
def test_it_is_principal_component_analysis(monkeypatch, numbers, n, d, k):
    monkeypatch.setattr(projection, "NUMBERS_AT_ONCE", numbers)
    rows, new = rows_of(n, d), rows_of(n + 5, d)[n:]
    found, expected = Projection.of(rows, k), PCA(k, svd_solver="full").fit(rows.astype(np.float64))
    assert (found.mean.dtype, found.basis.dtype, found(new).dtype) == (np.float32,) * 3
    signs = np.sign((found.basis * expected.components_.T).sum(0))
    np.testing.assert_allclose(found.basis * signs, expected.components_.T, atol=2e-5)
    np.testing.assert_allclose(found.mean, expected.mean_, rtol=1e-6)
    np.testing.assert_allclose(found(new) * signs, expected.transform(new), atol=1e-3)
    assert (found.basis[np.abs(found.basis).argmax(0), range(k)] > 0).all()


@pytest.mark.parametrize("d", [6, 50])
def test_rows_in_another_order_and_a_mirrored_world_give_the_same_axes(d):
    rows = rows_of(25, d)
    first, shuffled = Projection.of(rows, 3), Projection.of(rows[::-1], 3)
    np.testing.assert_allclose(shuffled.basis, first.basis, atol=1e-6)
    np.testing.assert_allclose(Projection.of(-rows, 3).basis, first.basis, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 4), (9, 4), (5, 40)])
@pytest.mark.parametrize("value", [0.0, 3.5])
def test_as_many_directions_as_can_be_and_constant_rows_have_orthonormal_ones(n, d, value):
    found = Projection.of(np.full((n, d), value, np.float32), 100)
    k = max(1, min(d, n - 1))
    assert found.basis.shape == (d, k)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(k), atol=1e-6)
    assert (found(np.full((3, d), value, np.float32)) == 0).all()


def test_no_rows_to_project_and_there_and_back():
    found = Projection.of(rows_of(30, 5), 2)
    assert found(np.zeros((0, 5), np.float32)).shape == (0, 2)
    again = Projection.from_arrays(found.arrays())
    assert (again(rows_of(9, 5)) == found(rows_of(9, 5))).all()


def test_memory_is_that_of_a_piece(monkeypatch):
    monkeypatch.setattr(projection, "NUMBERS_AT_ONCE", 1 << 14)
    rows = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)  # 5 MB
    tracemalloc.start()
    found = Projection.of(rows, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes / 4
    assert found.basis.shape == (64, 8)


def test_what_is_wide_and_long_is_refused(monkeypatch):
    monkeypatch.setattr(projection, "WIDEST", 10)
    assert Projection.of(rows_of(10, 20), 2).basis.shape == (20, 2)
    with pytest.raises(Refusal, match="one of the two may be at most 10"):
        Projection.of(rows_of(11, 20), 2)
