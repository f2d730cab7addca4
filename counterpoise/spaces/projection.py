"""Principal components: features brought down to the few directions in which the training rows differ most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from counterpoise.types import Refusal

NUMBERS_AT_ONCE = 1 << 22  # of the rows, in float64: 32 MiB
WIDEST = 1 << 14  # a square matrix of this many rows takes 2 GiB, and its eigenvectors a long while


@dataclass(frozen=True)
class Projection:
    """(n, d) rows => (n, k) coordinates, the direction of the largest variance first."""

    mean: np.ndarray  # (d,) float32
    basis: np.ndarray  # (d, k) float32, orthonormal columns

    @classmethod
    def of(cls, rows: np.ndarray, components: int) -> Projection:
        """Fitted on these rows (n, d); k = min(components, d, n - 1), at least 1."""
        n, d = rows.shape
        if min(n, d) > WIDEST:
            raise Refusal(
                f"principal components of {n:,} rows of {d:,} numbers: one of the two may be at most {WIDEST:,}; "
                "take pooled features, or a smaller input"
            )
        mean = np.zeros(d)
        for some in _spans(n, d):
            mean += rows[some].sum(0, dtype=np.float64) / n
        basis = (_tall if d <= n else _wide)(rows, mean, max(1, min(components, d, n - 1)))
        largest = np.take_along_axis(basis, np.abs(basis).argmax(0, keepdims=True), 0)
        basis = np.where(
            largest < 0, -basis, basis
        )  # of either sign, the one whose largest entry is positive
        return cls(mean.astype(np.float32), basis.astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, d) => (n, k) float32."""
        made = np.empty((len(x), self.basis.shape[1]), np.float32)
        for some in _spans(*x.shape):
            made[some] = (x[some] - self.mean) @ self.basis
        return made

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "basis": self.basis}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Projection:
        return cls(arrays["mean"], arrays["basis"])


def _tall(rows: np.ndarray, mean: np.ndarray, k: int) -> np.ndarray:
    """The leading eigenvectors (d, k) of the scatter X^T X."""
    scatter = np.zeros((rows.shape[1], rows.shape[1]))
    for some in _spans(*rows.shape):
        centred = rows[some] - mean
        scatter += centred.T @ centred
    return _leading(scatter, k)


def _wide(rows: np.ndarray, mean: np.ndarray, k: int) -> np.ndarray:
    """The same where rows are wider than many: if X X^T u = l u, then X^T X (X^T u) = l (X^T u)."""
    gram = np.zeros((len(rows), len(rows)))
    for some in _spans(*rows.shape[::-1]):
        centred = rows[:, some] - mean[some]
        gram += centred @ centred.T
    u = _leading(gram, k)
    found = [(rows[:, some] - mean[some]).T @ u for some in _spans(*rows.shape[::-1])]
    return np.linalg.qr(np.concatenate(found))[0]  # orthogonal already; of length one even without variance


def _leading(square: np.ndarray, k: int) -> np.ndarray:
    """The eigenvectors of the k largest eigenvalues, the largest first."""
    return np.linalg.eigh(square)[1][:, : -k - 1 : -1]


def _spans(count: int, width: int) -> list[slice]:
    step = max(1, NUMBERS_AT_ONCE // width)
    return [slice(first, first + step) for first in range(0, count, step)]
