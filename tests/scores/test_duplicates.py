import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.scores.batch import Batch
from counterpoise.scores.duplicates import NearestReal, nearest

rng = np.random.default_rng(0)
REAL = rng.random((200, 64)).astype(np.float32)


def score(x):
    return NearestReal()(batch(x), NearestReal().calibrate(REAL))


def batch(x):
    return Batch(x, np.zeros(len(x), int), REAL, np.array([f"id{i}" for i in range(200)]), np.zeros(200, int))


def test_copies_are_caught_and_fresh_draws_are_not():
    copies = REAL[:50] + rng.normal(0, 1e-3, (50, 64)).astype(np.float32)
    fresh = rng.random((500, 64)).astype(np.float32)
    assert (score(copies)[0] < 1).all()
    assert (score(fresh)[0] >= 1).mean() >= 0.99


def test_the_nearest_row_is_named():
    _, ids = score(REAL[[7, 3]])
    assert ids.tolist() == ["id7", "id3"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 7))
def test_nearest_agrees_with_brute_force_for_any_chunk(n, chunk):
    x = np.random.default_rng(n).random((n, 64)).astype(np.float32)
    distances, places = nearest(x, REAL, chunk=chunk)
    full = np.linalg.norm(x[:, None] - REAL[None], axis=2)
    assert np.allclose(distances, full.min(1), atol=1e-5)
    assert np.allclose(full[np.arange(n), places], full.min(1), atol=1e-6)


def test_a_score_is_independent_of_its_company():
    x = rng.random((20, 64)).astype(np.float32)
    whole = score(x)[0]
    parts = np.concatenate([score(x[i : i + 3])[0] for i in range(0, 20, 3)])
    assert np.array_equal(whole, parts)
