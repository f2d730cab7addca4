"""Which rows every training batch is made of, and the label mass that this really yields.

Arms are matched in optimiser steps and views: a stream is exactly ``steps x batch`` row numbers, whatever the
sampler, and there is no epoch and no dropped last batch (which would silently skip the tail of a tiny set).

Three things multiply into the probability of a row: a *mix* gives rows weights (real against synthetic; it also says
what synthetic rows claim to be, see `claims`), a *sampler* gives classes or groups their share, and within a class P(row) = P(class) weight / mass(class). The prior
that follows is what prior-based losses must be given: real counts after filling up would correct twice.

A row with a soft label is drawn as a member of its largest label, and counts in the prior by its label mass.
Nothing here knows pixels, networks or losses.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from counterpoise.classifiers.claims import ByStrength, Claims
from counterpoise.seeding import generator
from counterpoise.types import Refusal, part

# --- mixes: a weight per row -------------------------------------------------------------------------------

Classes = tuple[np.ndarray, np.ndarray]  # of the real rows, and those wanted of the synthetic rows


@runtime_checkable
class Mix(Protocol):
    """(weights of the real rows, weights of the synthetic rows) => one weight per row, real rows first.

    `classes` are those of the rows, for mixes that look at them; `claims` is what synthetic rows are taught as.
    """

    @property
    def claims(self) -> Claims: ...
    def __call__(
        self, real: np.ndarray, synthetic: np.ndarray, classes: Classes | None = None
    ) -> np.ndarray: ...


@part
class Concatenate:
    """Synthetic rows are rows like the others, each ``weight`` times as likely to be drawn."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    claims: Claims = ByStrength()

    def __call__(self, real: np.ndarray, synthetic: np.ndarray, classes: Classes | None = None) -> np.ndarray:
        return np.concatenate([real, self.weight * synthetic])


@part
class Replace:
    """A view is synthetic with probability ``p``, however many synthetic rows there are.

    With the `Instance` sampler the prior is exactly (1-p) pi_real + p pi_synthetic; other samplers keep their class
    shares, and p holds only where both kinds of rows exist. Without synthetic rows nothing is replaced.

    Which synthetic row it is goes by their weights, or, with ``rare``, by the class c wanted of it, of which there are
    n_c real rows: P(c) ~ 1 / (n_c + 1) (Diff-Mix on long tails), whatever a budget or a filter left of each.
    """

    p: Annotated[float, Field(ge=0, le=1)] = 0.5
    rare: bool = False
    claims: Claims = ByStrength()

    def __call__(self, real: np.ndarray, synthetic: np.ndarray, classes: Classes | None = None) -> np.ndarray:
        total = real.sum()
        if synthetic.sum() == 0:
            return np.concatenate([real, synthetic])
        if self.rare:
            assert classes is not None, "Replace counts the rows of each class: the caller passes classes="
            synthetic = _rarest_first(synthetic, *classes)
        return np.concatenate([(1 - self.p) * real, self.p * total / synthetic.sum() * synthetic])


def _rarest_first(weights: np.ndarray, real: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights of synthetic rows under which a class of n real rows has mass 1 / (n + 1), its rows shares as before."""
    masses = np.bincount(wanted, weights)
    counts = np.bincount(real, minlength=len(masses))[: len(masses)]
    return weights / (np.where(masses > 0, masses, 1.0) * (counts + 1))[wanted]


# --- samplers: a share per class or group ------------------------------------------------------------------


@runtime_checkable
class Sampler(Protocol):
    """Masses of the strata (S,) => their probabilities (S,), after a share `progress` of the training.

    `over` says what the strata are: the classes, or the groups. `moves`: the shares, and so the prior, depend on
    progress; where they do not, ask once.
    """

    @property
    def over(self) -> Literal["class", "group"]: ...
    @property
    def moves(self) -> bool: ...
    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray: ...


def _power(masses: np.ndarray, q: float) -> np.ndarray:
    """P(class) ~ n_c^q over the classes that are there (Kang et al. 2020, Equation 1)."""
    raised = np.where(masses > 0, np.maximum(masses, np.finfo(float).tiny) ** q, 0.0)
    return raised / raised.sum()


@part
class Instance:
    """Every row as often as any other. With even weights: shuffled passes, without replacement."""

    over: ClassVar[Literal["class", "group"]] = "class"
    moves: ClassVar[bool] = False

    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray:
        return _power(masses, 1.0)


@part
class Sqrt:
    """P(class) ~ the square root of its mass."""

    over: ClassVar[Literal["class", "group"]] = "class"
    moves: ClassVar[bool] = False

    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray:
        return _power(masses, 0.5)


@part
class ClassBalancedSampling:
    """Every class equally often."""

    over: ClassVar[Literal["class", "group"]] = "class"
    moves: ClassVar[bool] = False

    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray:
        return _power(masses, 0.0)


@part
class Progressive:
    """From `Instance` at the start to `ClassBalancedSampling` at the end, linearly (Kang et al. 2020, Equation 2)."""

    over: ClassVar[Literal["class", "group"]] = "class"
    moves: ClassVar[bool] = True

    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray:
        return (1 - progress) * _power(masses, 1.0) + progress * _power(masses, 0.0)


@part
class GroupBalanced:
    """Every group equally often; needs the groups of the rows. Rows without a group are one group more."""

    over: ClassVar[Literal["class", "group"]] = "group"
    moves: ClassVar[bool] = False

    def __call__(self, masses: np.ndarray, progress: float = 0.0) -> np.ndarray:
        return _power(masses, 0.0)


# --- from both: the views and their prior ------------------------------------------------------------------


def hard(targets: np.ndarray) -> np.ndarray:
    """Labels (N,) as they are; soft labels (N, C) by their largest class."""
    return targets if targets.ndim == 1 else targets.argmax(1)


def soft(targets: np.ndarray, classes: int) -> np.ndarray:
    """Soft labels (N, C) as they are; labels (N,) with all mass on one class, float32."""
    return targets if targets.ndim == 2 else np.eye(classes, dtype=np.float32)[targets]


def _strata(sampler: Sampler, targets: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    if sampler.over == "class":
        return hard(targets)
    if groups is None:
        name = type(sampler).__name__
        raise Refusal(
            f"{name} balances groups, and this data set has none: give each row a group, or balance classes"
        )
    return np.unique(groups, return_inverse=True)[1]


def _drawable(weights: np.ndarray) -> np.ndarray:
    assert ((weights >= 0) & np.isfinite(weights)).all(), "row weights are finite and not negative"
    rows = np.flatnonzero(weights)
    if len(rows) == 0:
        raise Refusal("there is no row to train on: every row has weight 0, raise the weight of the mix")
    return rows


def _invert(share: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Uniform numbers => strata with these probabilities."""
    edges = np.cumsum(share)
    found = np.searchsorted(edges, u * edges[-1], side="right")
    return np.minimum(found, len(edges) - 1)  # rounding may reach the last edge


def stream(
    sampler: Sampler,
    targets: np.ndarray,
    weights: np.ndarray,
    steps: int,
    batch: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The row numbers of all training batches (steps, batch) int64: exactly steps x batch views, fixed by the seed."""
    rng = generator("stream", seed)
    rows = _drawable(weights)
    views = steps * batch
    if isinstance(sampler, Instance) and (weights[rows] == weights[rows[0]]).all():
        passes = np.tile(rows, (-(-views // len(rows)), 1))
        return rng.permuted(passes, axis=1).ravel()[:views].reshape(steps, batch)

    strata = _strata(sampler, targets, groups)[rows]
    order = np.argsort(strata, kind="stable")
    rows, strata = rows[order], strata[order]
    _, first, counts = np.unique(strata, return_index=True, return_counts=True)  # strata that are there
    ends = np.cumsum(weights[rows])
    begins = ends[first] - weights[rows[first]]
    masses = ends[first + counts - 1] - begins

    drawn = rng.random((steps, batch))
    inside = rng.random((steps, batch))
    if sampler.moves:
        shares = (sampler(masses, step / steps) for step in range(steps))
        which = np.stack([_invert(share, u) for share, u in zip(shares, drawn, strict=True)])
    else:
        which = _invert(sampler(masses), drawn)
    found = np.searchsorted(ends, begins[which] + inside * masses[which], side="right")
    return rows[np.clip(found, first[which], first[which] + counts[which] - 1)]


def row_probability(
    sampler: Sampler,
    targets: np.ndarray,
    weights: np.ndarray,
    progress: float = 0.0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The probability of each row (N,) at this moment of the training: P(stratum) weight / mass(stratum)."""
    _drawable(weights)
    strata = _strata(sampler, targets, groups)
    masses = np.bincount(strata, weights)
    share = sampler(masses, progress) / np.where(masses > 0, masses, 1.0)
    return share[strata] * weights


def label_mass(targets: np.ndarray, weights: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Label mass per class (C,): weights summed over labels (N,) or soft labels (N, C)."""
    if targets.ndim == 2:
        return weights @ targets
    return np.bincount(targets, weights, minlength=classes or 0)


def effective_prior(targets: np.ndarray, probability: np.ndarray, classes: int | None = None) -> np.ndarray:
    """The expected label mass of one view (C,): sums to one."""
    mass = label_mass(targets, probability, classes)
    return mass / mass.sum()


def prior_of(
    sampler: Sampler,
    targets: np.ndarray,
    weights: np.ndarray,
    progress: float = 0.0,
    groups: np.ndarray | None = None,
    classes: int | None = None,
) -> np.ndarray:
    """What prior-based losses are given (C,): the effective prior in rows, so that it sums to the rows in play.

    For plain instance sampling these are the class counts.
    """
    probability = row_probability(sampler, targets, weights, progress, groups)
    return effective_prior(targets, probability, classes) * np.count_nonzero(weights)


def patch_weights(targets: np.ndarray, weights: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Row weights for the patches of CMO (Park et al. 2022, Equation 2): each row times 1 / n_c^power.

    A class is then drawn in proportion to n_c^(1 - power): evenly at power 1, tail first above it.
    """
    labels = hard(targets)
    masses = np.bincount(labels, weights)
    return weights / np.where(masses > 0, masses, 1.0)[labels] ** power
