from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.metrics import projection
from counterpoise.metrics.projection import flat_map, rows_to_show

RNG = np.random.default_rng(0)
PLANE = np.linalg.qr(RNG.normal(size=(7, 2)))[0].T  # (2, 7)


@pytest.fixture(autouse=True)
def _without_umap(monkeypatch):
    monkeypatch.setattr(projection, "find_spec", lambda name: None)


def test_rows_of_a_plane_keep_their_distances_and_samples_join_them():
    flat = RNG.normal(size=(60, 2)) * [5, 2] + [30, -4]
    real, samples = (flat @ PLANE).astype(np.float32), (np.array([[30.0, -4.0], [40.0, -4.0]]) @ PLANE)
    found = flat_map(real, samples.astype(np.float32), 0)
    assert found.method == "PCA"
    assert found.share == pytest.approx(1)
    both = np.concatenate([found.real, found.samples])
    truth = np.concatenate([flat, [[30, -4], [40, -4]]])
    np.testing.assert_allclose(
        np.linalg.norm(both[:, None] - both, axis=2),
        np.linalg.norm(truth[:, None] - truth, axis=2),
        atol=1e-4,
    )
    np.testing.assert_allclose(found.real.mean(0), 0, atol=1e-4)


def test_the_axes_are_found_in_real_rows_alone():
    real, samples = RNG.normal(size=(40, 5)), 1e6 * RNG.normal(size=(30, 5))
    alone, both = flat_map(real, real[:0], 0), flat_map(real, samples, 0)
    np.testing.assert_array_equal(alone.real, both.real)
    assert alone.share == both.share
    assert alone.samples.shape == (0, 2)


def test_the_share_is_that_of_the_two_widest_directions():
    real = np.diag([3.0, 2.0, 1.0])[np.repeat(np.arange(3), 2)] * np.tile([1, -1], 3)[:, None]
    assert flat_map(real, real, 0).share == pytest.approx((9 + 4) / 14)


@pytest.mark.parametrize("real", [np.ones((1, 4)), np.ones((6, 4)), np.arange(6.0)[:, None], np.ones((2, 1))])
def test_rows_that_span_no_plane_have_places_too(real):
    found = flat_map(real.astype(np.float32), real[:1].astype(np.float32), 0)
    assert found.real.shape == (len(real), 2)
    assert np.isfinite(found.real).all()
    assert found.share is None or found.share == pytest.approx(1)
    assert (found.share is None) == (np.ptp(real) == 0)


def test_umap_is_fitted_on_real_rows_and_only_where_there_are_enough(monkeypatch):
    class Fake:
        def __init__(self, neighbours, init, random_state, n_jobs):
            self.seed = random_state

        def fit(self, x):
            self.seen, self.embedding_ = len(x), x[:, :2]
            return self

        def transform(self, x):
            return x[:, :2] + self.seen

    module = ModuleType("umap")
    module.UMAP = Fake
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr(projection, "find_spec", lambda name: ModuleSpec(name, None))
    x = RNG.normal(size=(31, 4))
    found = flat_map(x, x[:3], 2**40)
    assert (found.method, found.share) == ("UMAP", None)
    np.testing.assert_array_equal(found.samples, x[:3, :2] + 31)
    assert flat_map(x[:30], x[:3], 0).method == "PCA"
    assert flat_map(x, x[:0], 0).method == "PCA"


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(0, 80), st.data())
def test_few_rows_are_shown_the_named_classes_first_and_the_others_alike(counts, most, data):
    counts = np.array(counts)
    first = data.draw(st.lists(st.integers(0, len(counts) - 1), unique=True, max_size=6))
    sizes = rows_to_show(counts, first, most)
    shown = np.array([sizes[c] for c in range(len(counts))])
    assert shown.sum() <= most
    assert (shown <= counts).all()
    for c in first:
        assert shown[c] >= min(counts[c], most // (2 * len(first)))
    others = np.setdiff1d(np.arange(len(counts)), first)
    cut = others[shown[others] < counts[others]]
    assert len(set(shown[cut].tolist())) <= 1, "as many of each class that has more"
    if counts.sum() <= most:
        np.testing.assert_array_equal(shown, counts)
