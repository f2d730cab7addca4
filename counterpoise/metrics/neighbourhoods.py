"""Do the samples lie where real rows lie, and everywhere they do? Balls around rows, out to their k-th neighbour.

Precision and recall after Kynkaanniemi et al. (2019), density and coverage after Naeem et al. (2020). Memory is
bounded by the block: no matrix of all pairs is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1024


def neighbourhoods(fake: np.ndarray, real: np.ndarray, k: int = 5, block: int = BLOCK) -> dict[str, float]:
    """Precision, recall, density and coverage of the samples.

    Precision: share of samples inside the ball of some real row. Recall: share of real rows inside the ball of some
    sample. Density: in how many real balls a sample lies, over k. Coverage: share of real balls that hold a sample.
    """
    centre = real.mean(0, dtype=np.float64)
    real_radii, fake_radii = radii(real, k, centre, block), radii(fake, k, centre, block)
    balls = np.zeros(len(fake), np.int64)  # real balls around each sample
    is_reached, is_covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for i, a in _blocks(fake, centre, block):
        for j, b in _blocks(real, centre, block):
            gaps = _gaps(a, b)  # (fake, real)
            in_real = gaps <= real_radii[j]
            balls[i] += in_real.sum(1)
            is_covered[j] |= in_real.any(0)
            is_reached[j] |= (gaps <= fake_radii[i, None]).any(0)
    return {
        "precision": float((balls > 0).mean()),
        "recall": float(is_reached.mean()),
        "density": float(balls.mean() / k),
        "coverage": float(is_covered.mean()),
    }


def radii(x: np.ndarray, k: int, centre: np.ndarray | None = None, block: int = BLOCK) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row."""
    centre = x.mean(0, dtype=np.float64) if centre is None else centre
    found = np.empty(len(x))
    for i, a in _blocks(x, centre, block):
        near = np.full((len(a), k), np.inf)
        for j, b in _blocks(x, centre, block):
            gaps = _gaps(a, b)
            if i == j:
                np.fill_diagonal(gaps, np.inf)
            near = np.partition(np.hstack([near, gaps]), k - 1, axis=1)[:, :k]
        found[i] = near.max(1)
    return found


def _blocks(x: np.ndarray, centre: np.ndarray, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(x), block):
        yield slice(start, start + block), x[start : start + block].astype(np.float64) - centre


def _gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (a, b). What is no more than rounding is zero: a copy lies exactly on its original."""
    scale = (a**2).sum(1)[:, None] + (b**2).sum(1)
    gaps = scale - 2 * (a @ b.T)
    gaps[gaps < 1e-12 * scale] = 0
    return gaps
