"""Is a sample a copy? Its distance to the nearest real training row, in units of what real rows keep from one another.

The threshold comes from the data: half the 1 % quantile of real-to-real nearest distances, so that two different
real images are never taken for copies, and a copied one (distance near zero) always is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from counterpoise.types import part


@dataclass(frozen=True)
class Batch:
    """Samples to score, and the real training rows they are held against. All vectors are float32 (n, d)."""

    x: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    real_ids: np.ndarray
    real_labels: np.ndarray


@part
class NearestReal:
    """Distance to the nearest real row, divided by the copy threshold: below 1 is a copy. Higher is better."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.01

    def threshold(self, real: np.ndarray) -> float:
        """Distance under which something counts as a copy, from the real rows alone (exact duplicates left out)."""
        distances, _ = nearest(real, real, skip_self=True)
        distances = distances[distances > 1e-6]
        return float(self.share * np.quantile(distances, self.quantile)) if len(distances) else 1.0

    def __call__(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        distances, index = nearest(batch.x, batch.real)
        return distances / max(self.threshold(batch.real), 1e-12), batch.real_ids[index]


def nearest(
    x: np.ndarray, real: np.ndarray, skip_self: bool = False, chunk: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance to, and place of, the nearest row of `real`; memory bounded by the chunk."""
    squares = (real**2).sum(1)
    distances, places = np.empty(len(x), np.float32), np.empty(len(x), np.int64)
    for start in range(0, len(x), chunk):
        part_ = x[start : start + chunk]
        gaps = squares - 2 * part_ @ real.T  # + |x|^2, the same for every candidate
        if skip_self:
            gaps[np.arange(len(part_)), start + np.arange(len(part_))] = np.inf
        best = gaps.argmin(1)
        places[start : start + chunk] = best
        distances[start : start + chunk] = np.linalg.norm(
            part_ - real[best], axis=1
        )  # exact: no cancellation near 0
    return distances, places
