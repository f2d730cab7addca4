"""The kernel distance KID (Binkowski et al. 2018): unbiased, so that it means something at small numbers, too."""

from __future__ import annotations

import numpy as np

SUBSET = 1000  # rows a side that are held against one another at a time


def kid(fake: np.ndarray, real: np.ndarray, seed: int = 0, subset: int = SUBSET) -> tuple[float, float]:
    """The squared MMD under the kernel (x.y / d + 1)^3, and its standard error.

    The mean over subsets that do not overlap. Subsets that do, as is usual, repeat rows and understate the error
    (at fewer rows than a subset holds they would say zero). Rows that lie in both sets push it below zero: clearly
    negative means copies.
    """
    few = min(len(fake), len(real))
    size = min(subset, few)
    rng = np.random.default_rng(seed)
    sides = [rng.permutation(len(x))[: few // size * size].reshape(-1, size) for x in (fake, real)]
    found = [
        _unbiased(fake[a].astype(np.float64), real[b].astype(np.float64)) for a, b in zip(*sides, strict=True)
    ]
    values, variances = np.array(found).T
    return float(values.mean()), float(np.sqrt(variances.sum()) / len(values))


def _unbiased(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """MMD^2_u (Gretton et al. 2012, Equation 3) and its variance to first order, from the influence of each row.

    Where the two are alike the first order vanishes, and what is left makes the error too large by about sqrt(2).
    """
    within_x, within_y, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    own = [(k.sum(1) - k.diagonal()) / (len(k) - 1) for k in (within_x, within_y)]  # mean over the other rows
    influence = own[0] - between.mean(1), own[1] - between.mean(0)
    value = own[0].mean() + own[1].mean() - 2 * between.mean()
    return float(value), float(4 * sum(each.var(ddof=1) / len(each) for each in influence))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
