"""Are samples like real rows? All measures of two sets of features at once, with the numbers they rest on.

No measure is ever a silent zero: what cannot be defined is None with a reason in `undefined`, and what rests on too
few rows is said in `warnings`. Nothing here knows networks, runs or the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from counterpoise.metrics.accuracy import wilson
from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.metrics.kernel import kid
from counterpoise.metrics.neighbourhoods import neighbourhoods
from counterpoise.metrics.prd import prd

LEAST = 5  # rows a side below which nothing is defined
ENOUGH = 50  # rows a side below which everything is rough
ENOUGH_FD = 2048
K = 5  # neighbours, as published for precision and recall; fewer where there are fewer than 25 rows
CLUSTERS = 20
MEASURES = ("fd", "kid", "precision", "recall", "density", "coverage", "f8", "f1_8", "floor")

TOO_FEW = f"fewer than {LEAST} rows on a side: nothing can be said"
NO_HALVES = f"fewer than {2 * LEAST} real rows: they cannot be halved to be held against themselves"
SINGULAR = "Frechet distance: no more rows than feature dimensions; read it beside its floor only"
BIASED = f"Frechet distance: under {ENOUGH_FD} rows, where chance alone raises it; read it beside its floor"
CROWDED = "precision, recall, density and coverage: fewer than ten rows for each neighbour that is looked at"
ROUGH = f"fewer than {ENOUGH} rows on a side: every number is rough"
UNEVEN = "precision and recall: one side has more than twice the rows of the other, which moves both"


def fidelity(
    fake: np.ndarray,
    real: np.ndarray,
    k: int = K,
    splits: int = 5,
    seed: int = 0,
    probabilities: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every measure of the samples' features (n, d) against those of real rows (m, d), as plain JSON values.

    `f8` is recall, `f1_8` precision of distributions. The intervals (95 %) are those of a share of rows, with the
    balls as they are. `floor` has what real rows score at like numbers. With the class `probabilities` of the samples
    the inception score joins.
    """
    n, m, dim = len(fake), len(real), fake.shape[1]
    few = min(n, m)
    found: dict[str, Any] = {"n_fake": n, "n_real": m, "dim": dim, "floor_n": min(n, m // 2)}
    found |= {"warnings": [], "undefined": {}} | dict.fromkeys(MEASURES)
    if few < LEAST:
        return found | {"undefined": dict.fromkeys(MEASURES, TOO_FEW)}
    found["k"] = k = min(k, few // LEAST)
    found |= _measures(fake, real, k, seed)
    for name in ("recall", "coverage"):
        found[name + "_interval"] = list(wilson(round(found[name] * m), m))
    found["f8"], found["f1_8"] = prd(fake, real, min(CLUSTERS, few // LEAST), seed=seed)
    if found["floor_n"] < LEAST:
        found["undefined"] = {"floor": NO_HALVES}
    else:
        found["floor"] = floor(fake, real, k, splits, seed)
    if probabilities is not None:
        found["inception_score"], found["inception_score_spread"] = inception_score(probabilities, seed=seed)
    least = found["floor_n"]  # the smallest number that anything here is measured at
    told = (
        (least <= dim, SINGULAR),
        (dim < least < ENOUGH_FD, BIASED),
        (least < 10 * k, CROWDED),
        (least < ENOUGH, ROUGH),
        (max(n, m) > 2 * few, UNEVEN),
    )
    return found | {"warnings": [sentence for is_so, sentence in told if is_so]}


def floor(
    fake: np.ndarray, real: np.ndarray, k: int = K, splits: int = 5, seed: int = 0
) -> dict[str, dict[str, float]]:
    """What new real rows would score: one half of the real rows against the other, and samples against that other.

    Means over random splits, all from min(n, m // 2) rows a side. Every measure here moves with the number of rows,
    so these two may be compared, and neither with the measures of all rows.
    """
    size = min(len(fake), len(real) // 2)
    k = min(k, size // LEAST)
    rng = np.random.default_rng(seed)
    found: dict[str, list[dict[str, float]]] = {"samples": [], "real": []}
    for _ in range(splits):
        rows = rng.permutation(len(real))
        first, second = real[rows[:size]], real[rows[size : 2 * size]]
        found["real"].append(_measures(first, second, k, seed))
        found["samples"].append(_measures(fake[rng.permutation(len(fake))[:size]], second, k, seed))
    return {
        side: {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}
        for side, scores in found.items()
    }


def _measures(fake: np.ndarray, real: np.ndarray, k: int, seed: int) -> dict[str, float]:
    value, error = kid(fake, real, seed)
    distances = {"fd": frechet(Statistics.of(fake), Statistics.of(real)), "kid": value, "kid_error": error}
    return distances | neighbourhoods(fake, real, k)


def by_band(
    fake: np.ndarray,
    fake_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    bands: Mapping[str, Sequence[int]],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`fidelity` over all classes and over each band of them (`metrics.accuracy.shot_bins`).

    From each class both sides give the same number of rows. Samples that fill up a tail have other class shares than
    real rows; unmatched, every measure would take that for a fault of the samples.
    """
    every = np.union1d(fake_labels, real_labels).tolist()
    found = {}
    for name, classes in ({"all": every} | dict(bands)).items():
        here, there = matched(fake_labels, real_labels, classes, seed)
        compared = len(np.unique(fake_labels[here]))
        found[name] = {"classes": compared} | fidelity(fake[here], real[there], seed=seed)
    return found


def matched(
    fake_labels: np.ndarray, real_labels: np.ndarray, classes: Sequence[int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides with equally many of each class: as many as the side that has fewer."""
    fewer = {c: min(int((fake_labels == c).sum()), int((real_labels == c).sum())) for c in classes}
    return some_of(fake_labels, fewer, seed), some_of(real_labels, fewer, seed)


def some_of(labels: np.ndarray, sizes: Mapping[int, int], seed: int) -> np.ndarray:
    """So many random rows of each class (all where it has no more), whichever other classes are asked for."""
    rows = [
        np.random.default_rng([seed, c]).permutation(np.flatnonzero(labels == c))[:size]
        for c, size in sizes.items()
    ]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *rows]))


def inception_score(probabilities: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)) (Salimans et al. 2016): mean and standard deviation over random splits.

    It grows with the rows per split (5,000 as published) and never looks at real rows.
    """
    p = np.asarray(probabilities, np.float64)
    rows = np.random.default_rng(seed).permutation(len(p))
    scores = []
    for part in np.array_split(rows, min(splits, len(p))):
        mean = p[part].mean(0)
        logs = np.log(np.maximum(p[part], 1e-300)) - np.log(np.maximum(mean, 1e-300))
        scores.append(np.exp((p[part] * logs).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
