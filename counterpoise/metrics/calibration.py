"""Does a confidence of 0.8 mean right in 8 of 10? The calibration error, its table, and a temperature.

The temperature is fitted on validation and never looks at test. Nothing here knows models or the disk.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
TEMPERATURES = (1e-3, 1e3)  # the range searched


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """One row per filled bin of equal width: its edges, images, mean confidence and accuracy. For a plot."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    assert confidence.shape == correct.shape, f"{confidence.shape} confidences, {correct.shape} answers"
    # Bin b holds (b/bins, (b+1)/bins], as in Guo et al. 2017; 0 itself belongs to the first.
    inside = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(inside, minlength=bins)
    said, right = (np.bincount(inside, values, minlength=bins) for values in (confidence, correct))
    return [
        {
            "low": float(b / bins),
            "high": float((b + 1) / bins),
            "images": int(images[b]),
            "confidence": float(said[b] / images[b]),
            "accuracy": float(right[b] / images[b]),
        }
        for b in np.flatnonzero(images)
    ]


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean |accuracy - confidence| over the bins, weighted by their images (Guo et al. 2017, Equation 3).

    >>> round(expected_calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]), 3)
    0.15
    """
    rows = reliability(confidence, correct, bins)
    gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return float(sum(gaps) / len(np.asarray(confidence)))


def classwise_error(probabilities: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
    """The calibration error of each class's probability, averaged over classes (Kull et al. 2019)."""
    columns = np.asarray(probabilities).T
    each = [
        expected_calibration_error(column, np.asarray(label) == c, bins) for c, column in enumerate(columns)
    ]
    return float(np.mean(each))


def brier(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 is perfect, 2 the worst."""
    truth = np.eye(np.asarray(probabilities).shape[1])[np.asarray(label)]
    return float(((probabilities - truth) ** 2).sum(1).mean())


def fit_temperature(logits: np.ndarray, label: np.ndarray, balanced: bool = False) -> float:
    """The T that makes softmax(logits / T) most likely on validation (Guo et al. 2017, Section 4.2).

    `balanced` gives every class that is present the same weight, for a validation set that is uneven itself.
    One more image, of which every label is equally likely, is counted in: without it a classifier that makes no
    mistake on a small validation set would be told to be certain (Platt 1999 does the same with two classes).
    The likelihood is convex in 1/T, hence has one optimum over log T, which a bounded search finds.
    """
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.int64)
    assert len(logits) == len(label) > 0, f"{len(logits)} rows of logits for {len(label)} labels"
    assert np.isfinite(logits).all(), "a temperature needs finite logits"
    if np.ptp(logits, axis=1).max() == 0:
        return 1.0  # every temperature says the same
    weight = 1 / np.bincount(label)[label] if balanced else np.ones(len(label))
    unknown = 1 / (len(label) + 1)
    weight = weight / weight.sum() * (1 - unknown)
    rows = np.arange(len(label))

    def nll(log_t: float) -> float:
        said = log_softmax(logits / np.exp(log_t), axis=1)
        return float(-weight @ said[rows, label] - unknown * said.mean())

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))
