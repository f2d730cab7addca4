"""How well each class and each group is recognised, and the averages that an uneven set needs.

Everything is computed from arrays with one entry per test image. Shot bins always follow the *real* train counts.
A class or group without test images is left out of every mean and counted in `untested_classes`; it is never a
zero. A bin without classes is absent, never NaN. Nothing here knows models, trials or the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from counterpoise.metrics.calibration import expected_calibration_error

MANY, FEW = 100, 20  # many: more than 100 real train images, few: fewer than 20 (Liu et al. 2019)
FLOOR = 1e-3  # of a recall inside the G-mean, which one dead class would make zero
WORST = 0.1  # share of the classes or groups in a "worst tenth"

#: The verdict's slices and the measure each is read from. All are rates between 0 and 1, higher is better.
SLICES = {
    "all": "balanced_accuracy",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "rarest": "rarest",
    "worst_class": "worst_class",
    "worst_group": "worst_group",
    "worst_cell": "worst_cell",
}


def shot_bins(counts: Sequence[int] | np.ndarray) -> dict[str, list[int]]:
    """Classes by their number of real train images: many (> 100), medium (20 to 100), few (< 20).

    Where no class has fewer than 20, `rarest` (the rarest third of the classes) takes the place of `few`; it
    overlaps the other two. A set that is filled evenly has no rarest classes.

    >>> shot_bins([500, 60, 20, 3])
    {'many': [0], 'medium': [1, 2], 'few': [3]}
    >>> shot_bins([500, 60, 20])
    {'many': [0], 'medium': [1, 2], 'rarest': [2]}
    """
    n = np.asarray(counts)
    bins = {"many": n > MANY, "medium": (n >= FEW) & (n <= MANY), "few": n < FEW}
    found = {name: np.flatnonzero(inside).tolist() for name, inside in bins.items() if inside.any()}
    if "few" not in found and len(n) and n.min() < n.max():
        third = np.argsort(n, kind="stable")[: max(1, len(n) // 3)]
        found["rarest"] = sorted(third.tolist())
    return found


def confusion(label: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts with the true class in rows and the predicted class in columns."""
    label, predicted = np.asarray(label, np.int64), np.asarray(predicted, np.int64)
    assert label.shape == predicted.shape, f"{label.shape} labels, {predicted.shape} predictions"
    for name, values in (("label", label), ("predicted", predicted)):
        assert not len(values) or (values.min() >= 0 and values.max() < n_classes), f"a {name} is no class"
    pairs = np.bincount(label * n_classes + predicted, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def wilson(hits: int, tried: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate."""
    found = binomtest(int(hits), int(tried)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def per_class(
    label: np.ndarray, predicted: np.ndarray, counts: Sequence[int] | np.ndarray, n_classes: int
) -> list[dict[str, Any]]:
    """One row per class: real train count, test images, recall with its 95 % Wilson interval, precision, F1.

    Recall, its interval and F1 are None for a class without test images, precision is None for one never predicted.
    """
    table = confusion(label, predicted, n_classes)
    tested, claimed, hits = table.sum(1), table.sum(0), table.diagonal()
    rows = []
    for c in range(n_classes):
        low, high = wilson(hits[c], tested[c]) if tested[c] else (None, None)
        rows.append(
            {
                "label": c,
                "train": int(counts[c]),
                "test": int(tested[c]),
                "recall": float(hits[c] / tested[c]) if tested[c] else None,
                "low": low,
                "high": high,
                "precision": float(hits[c] / claimed[c]) if claimed[c] else None,
                "f1": float(2 * hits[c] / (tested[c] + claimed[c])) if tested[c] else None,
            }
        )
    return rows


def worst_tenth(values: np.ndarray) -> float:
    """The mean of the lowest tenth, at least one of them.

    The minimum of many small groups is too low by chance alone: 360 groups of 50 images, each with a true rate
    of .80, show a minimum of about .62. The mean of the lowest tenth is less so, and moves less between trials.
    """
    return float(np.sort(values)[: max(1, math.ceil(WORST * len(values)))].mean())


def measure(
    label: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    nll: np.ndarray,
    group: np.ndarray | None,
    counts: Sequence[int] | np.ndarray,
    n_classes: int,
    group_counts: Sequence[int] | np.ndarray | None = None,
) -> dict[str, float]:
    """All scalars of one set of predictions, in a fixed order.

    `counts` are real train images per class, `group_counts` per group (for `adjusted_average`). A negative group
    is an unknown one and takes no part in the group measures; a cell is a class in a group. `tail_to_head` is the mean share of a tail class's
    test images that are called a head class (tail: few or rarest, head: many without the tail).
    """
    label, predicted = np.asarray(label, np.int64), np.asarray(predicted, np.int64)
    table = confusion(label, predicted, n_classes)
    tested, claimed, hits = table.sum(1), table.sum(0), table.diagonal()
    is_shown = tested > 0
    assert is_shown.any(), "there are no test images to measure"
    correct = label == predicted
    share = table / np.maximum(tested, 1)[:, None]  # (true, predicted), rows sum to 1 where tested
    recall = share.diagonal()
    seen = recall[is_shown]
    found = {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": float(seen.mean()),
        "macro_f1": float((2 * hits / np.maximum(tested + claimed, 1))[is_shown].mean()),
        "g_mean": float(np.exp(np.log(np.maximum(seen, FLOOR)).mean())),
        "dead_classes": float((seen == 0).sum()),
        "untested_classes": float(n_classes - is_shown.sum()),
        "worst_class": float(seen.min()),
        "worst_classes": worst_tenth(seen),
    }
    bins = {
        name: np.bincount(members, minlength=n_classes) > 0 for name, members in shot_bins(counts).items()
    }
    found |= {
        name: float(recall[inside & is_shown].mean())
        for name, inside in bins.items()
        if (inside & is_shown).any()
    }
    tail = bins.get("few", bins.get("rarest", np.zeros(n_classes, bool)))
    head = bins.get("many", np.zeros(n_classes, bool)) & ~tail
    if (tail & is_shown).any() and head.any():
        found["tail_to_head"] = float(share[tail & is_shown][:, head].sum(1).mean())
    if group is not None:
        group = np.asarray(group, np.int64)
        found |= by_group(correct, group, group_counts)
        cells = np.where(group < 0, group, label + n_classes * group)
        if each := group_accuracy(correct, cells).values():
            found |= {"worst_cell": min(each), "worst_cells": worst_tenth(np.array(list(each)))}
    found["nll"] = float(np.mean(nll))
    found["ece"] = expected_calibration_error(confidence, correct)
    return found


def group_accuracy(correct: np.ndarray, group: np.ndarray) -> dict[int, float]:
    """Accuracy of each group that has test images."""
    known = group >= 0
    tested = np.bincount(group[known])
    hits = np.bincount(group[known], correct[known])
    return {int(g): float(hits[g] / tested[g]) for g in np.flatnonzero(tested)}


def by_group(
    correct: np.ndarray, group: np.ndarray, group_counts: Sequence[int] | np.ndarray | None = None
) -> dict[str, float]:
    """Mean over groups, worst group, worst tenth, and the average weighted by the groups' shares of the train set, if any."""
    each = group_accuracy(correct, group)
    if not each:
        return {}
    values = np.array(list(each.values()))
    found = {
        "group_mean": float(values.mean()),
        "worst_group": float(values.min()),
        "worst_groups": worst_tenth(values),
    }
    if group_counts is not None:
        weight = np.asarray(group_counts, float)[list(each)]
        if weight.sum() > 0:
            found["adjusted_average"] = float(values @ weight / weight.sum())
    return found


def slices(measured: Mapping[str, float]) -> dict[str, float]:
    """What the verdict is about, from one `measure`: all, many, medium, few or rarest, worst class, group and cell."""
    return {name: measured[source] for name, source in SLICES.items() if source in measured}
