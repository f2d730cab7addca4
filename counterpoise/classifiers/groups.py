"""Deep feature reweighting (Kirichenko et al. 2023): a last layer refitted on data where every group is equally large.

A group is a cell of class x group, as in the literature; rows without a group (-1) are in none and left out. Settings are the paper's: an L1 logistic regression on
standardised features, C tuned on half of the rows by worst-group accuracy, then the mean of several refits.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from counterpoise.classifiers.decoupling import Rows
from counterpoise.classifiers.heads import LinearHead
from counterpoise.seeding import generator
from counterpoise.types import Refusal, part


def known(rows: Rows) -> Rows:
    """The rows whose group is known."""
    if rows.groups is None or not (rows.groups >= 0).any():
        raise Refusal(
            "DFR balances groups and this data has none: give a group column, or use another second stage"
        )
    there = rows.groups >= 0
    return Rows(rows.features[there], rows.labels[there], rows.groups[there])


def cells(rows: Rows) -> np.ndarray:
    """One number per class x group that has rows (N,)."""
    assert rows.groups is not None, "known() has refused data without groups"
    return np.unique(np.stack([rows.labels, rows.groups], 1), axis=0, return_inverse=True)[1].reshape(-1)


def balanced_subset(cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of a subset in which every cell has as many rows as the smallest one."""
    _, size = np.unique(cell, return_counts=True)
    members = [np.flatnonzero(cell == value) for value in np.unique(cell)]
    return np.concatenate([rng.permutation(rows)[: size.min()] for rows in members])


def worst_cell(right: np.ndarray, cell: np.ndarray) -> float:
    return float(min(right[cell == value].mean() for value in np.unique(cell)))


@part
class DFR:
    """The last layer refitted on group-balanced validation rows (DFR-val) or training rows (DFR-tr)."""

    on: Literal["val", "train"] = "val"
    grid: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
    refits: Annotated[int, Field(ge=1)] = 10

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        rows = known(val if self.on == "val" else fit)
        cell, rng = cells(rows), generator("dfr", seed)
        chosen = self._tune(rows, cell, len(prior), rng)
        center, scale = _standardise(rows.features)
        x = (rows.features - center) / scale
        found = []
        for _ in range(self.refits):
            picked = balanced_subset(cell, rng)
            found.append(_l1(x[picked], rows.labels[picked], chosen, len(prior)))
        weight, bias = (np.mean(parts, axis=0).astype(np.float32) for parts in zip(*found, strict=True))
        return LinearHead(weight, bias, center, scale), {"C": chosen, "refits": self.refits, "on": self.on}

    def _tune(self, rows: Rows, cell: np.ndarray, classes: int, rng: np.random.Generator) -> float:
        """C with the best worst group on one half, when fitted on a balanced subset of the other."""
        left = np.zeros(len(cell), bool)
        for value in np.unique(cell):
            members = rng.permutation(np.flatnonzero(cell == value))
            if len(members) < 2:
                raise Refusal(
                    f"DFR tunes on half of every class x group and one of them has {len(members)} row: "
                    f'use on="{"train" if self.on == "val" else "val"}", or merge groups'
                )
            left[members[: len(members) // 2]] = True
        picked = np.flatnonzero(left)[balanced_subset(cell[left], rng)]
        center, scale = _standardise(rows.features[left])
        x = (rows.features - center) / scale
        scored = []
        for strength in self.grid:
            weight, bias = _l1(x[picked], rows.labels[picked], strength, classes)
            right = (x[~left] @ weight.T + bias).argmax(1) == rows.labels[~left]
            scored.append(worst_cell(right, cell[~left]))
        return self.grid[int(np.argmax(scored))]


def _standardise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    std = features.std(0)
    return features.mean(0).astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


def _l1(x: np.ndarray, labels: np.ndarray, strength: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """L1 logistic regression, each class against the rest, as (C, D), (C,); a class without rows is never predicted.

    liblinear, which the authors used, too: on 1,280 features saga took 20 s where this takes one.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -1e4)
    there = np.unique(labels)
    with warnings.catch_warnings():
        # An average of ten regressions does not need the last digit of each.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for label in there if len(there) > 2 else there[1:]:
            model = LogisticRegression(
                C=strength, l1_ratio=1.0, solver="liblinear", max_iter=100, tol=1e-3, random_state=0
            )
            model.fit(x, labels == label)
            weight[label], bias[label] = model.coef_[0], model.intercept_[0]
    if len(there) == 2:  # one regression says both
        weight[there[0]], bias[there[0]] = -weight[there[1]], -bias[there[1]]
        weight[there], bias[there] = weight[there] / 2, bias[there] / 2
    return weight, bias
