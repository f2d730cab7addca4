"""Precision and recall of distributions (Sajjadi et al. 2018): histograms of both sets over clusters of their union.

Naming, which is easily reversed: F_8 weighs recall more, F_1/8 weighs precision more.
"""

from __future__ import annotations

import numpy as np

ANGLES = 1001
BETA = 8.0


def prd(
    fake: np.ndarray, real: np.ndarray, clusters: int = 20, runs: int = 10, seed: int = 0
) -> tuple[float, float]:
    """(F_8, F_1/8): recall and precision, each the mean over runs of the clustering. Both sides count the same."""
    few = min(len(fake), len(real))
    found = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        sides = [x[rng.permutation(len(x))[:few]].astype(np.float32) for x in (fake, real)]
        of = cluster(np.concatenate(sides), min(clusters, 2 * few), rng)
        shares = [np.bincount(part, minlength=clusters) / few for part in (of[:few], of[few:])]
        found.append(f_scores(*curve(*shares)))
    recall, precision = np.mean(found, 0)
    return float(recall), float(precision)


def curve(fake: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision alpha and recall beta of two histograms, for every slope lambda (Equations 3 and 4)."""
    slopes = np.tan(np.pi / 2 * np.arange(1, ANGLES + 1) / (ANGLES + 1))
    alpha = np.minimum(slopes[:, None] * real, fake).sum(1)
    return alpha, alpha / slopes


def f_scores(precision: np.ndarray, recall: np.ndarray) -> tuple[float, float]:
    """The largest F_8 (recall) and the largest F_1/8 (precision) on the curve."""

    def largest(beta: float) -> float:
        below = beta**2 * precision + recall
        return float(((1 + beta**2) * precision * recall / np.maximum(below, 1e-300)).max())

    return largest(BETA), largest(1 / BETA)


def cluster(x: np.ndarray, k: int, rng: np.random.Generator, rounds: int = 30) -> np.ndarray:
    """k-means (Lloyd) from seeds drawn far apart (k-means++): the cluster of each row."""
    squares = (x**2).sum(1)
    centres = np.empty((k, x.shape[1]), x.dtype)
    far = np.ones(len(x))
    for i in range(k):
        centres[i] = x[rng.choice(len(x), p=far / far.sum())] if far.sum() else x[0]
        gaps = np.maximum(squares - 2 * x @ centres[i] + squares_of(centres[i]), 0).astype(np.float64)
        far = gaps if i == 0 else np.minimum(far, gaps)
    of = np.full(len(x), -1)
    for _ in range(rounds):
        now = ((centres**2).sum(1) - 2 * x @ centres.T).argmin(1)
        if (now == of).all():
            break
        of = now
        for i in np.unique(of):
            centres[i] = x[of == i].mean(0)
    return of


def squares_of(x: np.ndarray) -> float:
    return float(x @ x)
