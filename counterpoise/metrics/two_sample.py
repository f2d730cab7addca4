"""Can one nearest neighbour tell samples from real rows? (Lopez-Paz and Oquab 2017, arXiv 1610.06545)"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors


def one_nearest(fake: np.ndarray, real: np.ndarray) -> float:
    """Leave-one-out accuracy of 1-NN between two sets of n rows: 1/2 if they are alike, near 1 if they lie apart.

    Below 1/2, samples lie on real rows: every copy has its original for a neighbour.
    """
    assert len(fake) == len(real), "with sets of unequal sizes an accuracy of 1/2 says nothing"
    side = np.repeat([0, 1], len(fake))
    near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(np.concatenate([fake, real]))
    return float((side[near.kneighbors(return_distance=False)[:, 0]] == side).mean())
