from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from counterpoise.metrics.neighbourhoods import neighbourhoods, radii


def plain(fake: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, from matrices of all pairs."""
    gaps = cdist(fake, real)
    real_radius = np.sort(cdist(real, real), 1)[:, k]  # the nearest is the row itself
    fake_radius = np.sort(cdist(fake, fake), 1)[:, k]
    inside = gaps <= real_radius
    return {
        "precision": inside.any(1).mean(),
        "recall": (gaps <= fake_radius[:, None]).any(0).mean(),
        "density": inside.sum(1).mean() / k,
        "coverage": inside.any(0).mean(),
    }


def sets(n: int = 90, m: int = 70, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0.4, 1, size=(n, d)).astype(np.float32), rng.normal(size=(m, d)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_they_are_their_definitions_in_blocks_or_whole_and_in_any_order(k):
    fake, real = sets()
    expected = pytest.approx(plain(fake, real, k), abs=1e-12)
    for block in (7, 64, 1000):
        assert neighbourhoods(fake, real, k, block) == expected
    assert neighbourhoods(fake[::-1], real[::-1], k, 16) == expected
    assert neighbourhoods(fake + 1000, real + 1000, k) == pytest.approx(plain(fake, real, k), abs=0.02), (
        "float32"
    )


@pytest.mark.parametrize("block", [8, 512])
def test_radii_do_not_count_the_row_itself(block):
    x, _ = sets()
    np.testing.assert_allclose(radii(x, 3, block=block), np.sort(cdist(x, x), 1)[:, 3] ** 2, rtol=1e-9)


def test_a_set_has_all_of_itself():
    x, _ = sets()
    found = neighbourhoods(x, x[::-1])
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] > 1


def modes(which: list[int], each: int, seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([10 * np.eye(6)[c] + rng.normal(0, spread, size=(each, 6)) for c in which])


def test_dropped_modes_cost_recall_and_coverage_but_not_precision():
    real = modes([0, 1, 2, 3], 40, 0)
    whole, half = neighbourhoods(modes([0, 1, 2, 3], 40, 1), real), neighbourhoods(modes([0, 1], 80, 1), real)
    assert min(whole["recall"], whole["coverage"]) > 0.85
    assert half["recall"] < 0.55
    assert half["coverage"] < 0.55
    assert half["precision"] > 0.85


def test_noise_costs_precision_and_density_but_not_recall():
    real = modes([0, 1], 60, 0)
    noisy = neighbourhoods(np.concatenate([modes([0, 1], 60, 1), modes([4, 5], 120, 2, spread=3)]), real)
    assert noisy["precision"] < 0.4
    assert noisy["density"] < 0.4
    assert noisy["recall"] > 0.85


def test_an_outlier_fools_precision_but_not_density():
    """Naeem et al. (2020), section 2.2: one real outlier has a ball that holds everything between."""
    rng = np.random.default_rng(4)
    real, elsewhere = rng.normal(size=(60, 3)), rng.normal(6, 0.5, size=(60, 3))
    with_outlier = neighbourhoods(elsewhere, np.concatenate([real, [[9.0, 9, 9]]]))
    assert neighbourhoods(elsewhere, real)["precision"] == 0
    assert with_outlier["precision"] > 0.9
    assert with_outlier["density"] < 0.3


def test_copies_are_precise_and_cover_little():
    """Copies of a few rows have balls of no size: rounding must not blow them up."""
    _, real = sets()
    copied = np.repeat(real[:5], 14, axis=0)
    found = neighbourhoods(copied, real)
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(5 / 70)


def test_memory_is_bounded_by_the_block():
    x, y = np.random.default_rng(0).normal(size=(2, 3000, 4)).astype(np.float32)
    tracemalloc.start()
    neighbourhoods(x, y, 5, block=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6, "a matrix of all pairs has 72e6 bytes"
