"""The Frechet distance between two sets of features (Heusel et al. 2017).

The distance of two *samples* is biased upwards, the more so the fewer rows and the more dimensions there are (Chong
and Forsyth 2020): it means something beside its floor only (`metrics.fidelity.floor`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.linalg import eigh, svdvals


@dataclass(frozen=True, eq=False)
class Statistics:
    """Number, mean and scatter of feature rows in float64. Parts of a set add up: `of(a) + of(b)` is `of(a and b)`."""

    n: int
    mean: np.ndarray  # (d,)
    scatter: np.ndarray  # (d, d): sum of (x - mean)(x - mean)'

    @classmethod
    def of(cls, x: np.ndarray) -> Statistics:
        x = np.asarray(x, np.float64)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    @classmethod
    def stream(cls, batches: Iterable[np.ndarray]) -> Statistics:
        """Of all batches together, one in memory at a time."""
        return reduce(cls.__add__, map(cls.of, batches))

    def __add__(self, other: Statistics) -> Statistics:
        """Chan, Golub and LeVeque (1979): nothing is subtracted, so nothing is lost to rounding."""
        n, gap = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n)
        return Statistics(n, self.mean + gap * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        return self.scatter / (self.n - 1)

    def root(self) -> np.ndarray:
        """R (d, rank) with R R' = covariance; directions without spread are left out."""
        values, vectors = eigh(self.covariance, driver="evd")
        there = values > values[-1] * len(values) * np.finfo(float).eps
        return vectors[:, there] * np.sqrt(values[there])


def frechet(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2).

    The trace of that root is the sum of the singular values of R_a' R_b. No root of a singular or unsymmetric
    matrix is taken, so fewer rows than dimensions are no trouble for the arithmetic (they are for the meaning).
    """
    between = a.root().T @ b.root()  # (rank a, rank b)
    shared = svdvals(between).sum() if between.size else 0.0
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared
    return max(0.0, float(((a.mean - b.mean) ** 2).sum() + spread))
