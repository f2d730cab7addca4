"""Is a sample a copy? Its distance to the nearest real training row, in units of what real rows keep from one another.

The threshold comes from the data: half the 1 % quantile of real-to-real nearest distances, so that two different
real images are never taken for copies, and a copied one (distance near zero) always is.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from counterpoise.scores.batch import Batch
from counterpoise.types import part

MOST_CALIBRATED = 2000


@part
class NearestReal:
    """Distance to the nearest real row, divided by the copy threshold: below 1 is a copy. Higher is better."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.01

    def calibrate(self, real: np.ndarray) -> float:
        """Distance under which something counts as a copy, from real rows alone (exact duplicates left out).

        Once per lot; of many rows, an even sample is held against all.
        """
        asked = np.unique(np.linspace(0, len(real) - 1, min(MOST_CALIBRATED, len(real))).astype(int))
        distances, _ = nearest(real[asked], real, itself=asked)
        distances = distances[distances > 1e-6]
        return (
            max(float(self.share * np.quantile(distances, self.quantile)), 1e-12) if len(distances) else 1.0
        )

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        if not len(batch.real):  # then nothing is a copy
            return np.ones(len(batch.x)), np.full(len(batch.x), "")
        distances, index = nearest(batch.x, batch.real)
        return distances / threshold, batch.real_ids[index]


def nearest(
    x: np.ndarray, real: np.ndarray, itself: np.ndarray | None = None, chunk: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance to, and place of, the nearest row of `real`; memory bounded by the chunk.

    `itself` names the row of `real` that each x is, and that does not count as its neighbour.
    """
    squares = (real**2).sum(1)
    distances, places = np.empty(len(x), np.float32), np.empty(len(x), np.int64)
    for start in range(0, len(x), chunk):
        part_ = x[start : start + chunk]
        gaps = squares - 2 * part_ @ real.T  # + |x|^2, the same for every candidate
        if itself is not None:
            gaps[np.arange(len(part_)), itself[start : start + chunk]] = np.inf
        best = gaps.argmin(1)
        places[start : start + chunk] = best
        distances[start : start + chunk] = np.linalg.norm(
            part_ - real[best], axis=1
        )  # exact: no cancellation near 0
    return distances, places
