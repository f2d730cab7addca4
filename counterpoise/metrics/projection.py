"""Real rows and samples on two axes that are found in the real rows alone: do the samples lie where those lie?

Samples have no say in the axes. What is odd about them shows as a place, not as a turn of the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from counterpoise.spaces.projection import Projection

NEIGHBOURS = 15  # of UMAP, as published
MOST = 300  # rows a side: more marks cover one another


class FlatMap(NamedTuple):
    real: np.ndarray  # (n, 2)
    samples: np.ndarray  # (m, 2)
    method: str  # "PCA" or "UMAP"
    share: float | None  # of the real rows' variance that the two axes hold; UMAP's axes hold none


def flat_map(real: np.ndarray, samples: np.ndarray, seed: int) -> FlatMap:
    """Places of real rows (n, d) and of samples (m, d). UMAP where it is installed and has rows enough, else PCA."""
    if find_spec("umap") and len(real) > 2 * NEIGHBOURS and len(samples):
        return _umap(real, samples, seed)
    return _pca(real, samples)


def _pca(real: np.ndarray, samples: np.ndarray) -> FlatMap:
    axes = Projection.of(real, 2)
    real_xy, samples_xy = (np.zeros((len(rows), 2), np.float32) for rows in (real, samples))
    for xy, rows in ((real_xy, real), (samples_xy, samples)):
        found = axes(rows)
        xy[:, : found.shape[1]] = found  # one column alone of rows on one line
    whole = float(real.var(0, dtype=np.float64).sum())
    return FlatMap(real_xy, samples_xy, "PCA", float(real_xy.var(0).sum()) / whole if whole else None)


def _umap(real: np.ndarray, samples: np.ndarray, seed: int) -> FlatMap:
    """McInnes, Healy and Melville (2018): fitted on the real rows, the samples put in afterwards."""
    from umap import UMAP

    fitted = UMAP(NEIGHBOURS, init="pca", random_state=seed % 2**32, n_jobs=1).fit(real)
    return FlatMap(fitted.embedding_, fitted.transform(samples), "UMAP", None)


def rows_to_show(counts: np.ndarray, first: Sequence[int], most: int = MOST) -> dict[int, int]:
    """How many rows of each class to draw: half of all are kept for the classes of `first`, the rest is shared evenly.

    >>> rows_to_show(np.array([900, 50, 3]), [2], 20)
    {0: 8, 1: 8, 2: 3}
    """
    kept = np.zeros(len(counts), np.int64)
    kept[list(first)] = most // (2 * max(len(first), 1))
    levels = (np.minimum(counts, np.maximum(kept, level)) for level in range(most, -1, -1))
    sizes = next(each for each in levels if each.sum() <= most)
    return {c: int(size) for c, size in enumerate(sizes)}
