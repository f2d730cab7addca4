"""Which real rows each wanted sample starts from. A pairing writes the plan: one row per sample, each with its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from counterpoise import tables
from counterpoise.proposals.strengths import ByShots, Enough, Strengths
from counterpoise.seeding import derive, generator
from counterpoise.types import Refusal, part


@dataclass(frozen=True)
class TrainRows:
    """The real training rows a plan may use: ids, labels, groups and, where a pairing looks at them, their vectors.

    `confusion` is what a tutor makes of the validation rows of each class; there is one where a pairing listens to it.
    `enough` is the strength that a pilot has found for each class; without one, all that it has to try are tried alike.
    `share_of` tells the strength at which the generator's sources have a signal-to-noise ratio (dB), if it adds noise to any.
    """

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    vectors: np.ndarray  # (n, d)
    confusion: np.ndarray | None = None  # (true class, class) mean probability
    enough: np.ndarray | None = None  # (classes,)
    share_of: Callable[[float], float] | None = None

    def of_class(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels == label)


#: Places among the training rows: of the sources, and of their partners; None where there are none.
Chosen = tuple[np.ndarray | None, np.ndarray | None]
NOWHERE = -1  # the place of the source of a sample that starts from noise among others that do not
GOLDEN = (5**0.5 - 1) / 2


@part
class FromNoise:
    """Every sample starts from noise: only its class is asked for, in the words of its prompt if it has one."""

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        return _plan(wanted, train, seed, lambda label, n, rng: (None, None))


@part
class SameClass:
    """Each sample starts from one real image of its own class, every image used as evenly as possible.

    `strength` is how far a generator that can go part of the way leaves it: 0 not at all, 1 for good. The share
    `dropout` of each class's samples has no image and starts from noise: what images alone make is too much like them.
    So do all samples of a class that has no image, which is where ever fewer of them lead. With `strength=ByShots()` and
    a text-to-image model this is the real guidance of He et al. (2023).
    """

    strength: Strengths = 0.0
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            rows = train.of_class(label)
            without = round(self.dropout * n) if len(rows) else n
            sources = _evenly(rows, n - without, rng)
            places = np.full(n, NOWHERE)
            places[np.sort(rng.permutation(n)[without:])] = sources
            return places, None

        return _plan(wanted, train, seed, choose, self.strength)


@part
class FromLarger:
    """Each sample of a class starts from a real row of a larger class that is near to it, to be translated.

    The `neighbours` nearest of the larger classes count (None: all), by class mean in standardised vectors; their rows
    are used as evenly as possible. A class with no larger one starts from its own rows.
    """

    neighbours: Annotated[int, Field(ge=1)] | None = 3
    strength: Strengths = 0.0

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        _refuse_nothing(self, train)
        counts = np.bincount(train.labels, minlength=len(wanted))
        means = _class_means(train, len(wanted))

        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            near = _nearest(means, label, np.flatnonzero(counts > counts[label]), self.neighbours)
            sources = near if len(near) else [label]
            return _evenly(np.flatnonzero(np.isin(train.labels, sources)), n, rng), None

        return _plan(wanted, train, seed, choose, self.strength)


@part
class FromAny:
    """Each sample starts from a real row of any class, its own as well, to be translated (Diff-Mix, Wang et al. 2024).

    `by` says which classes lend their rows: "class" all alike; "image" by their size, so that the rare classes, of which
    a budget wants most, get the backgrounds of the large ones (as in CMO, Park et al. 2022); "confusion" the more the
    more a tutor takes one for the other on validation, in both directions. With `neighbours` only so many other classes
    count, those whose means are nearest in standardised vectors. Where all this names no class, any image does.
    """

    by: Literal["class", "image", "confusion"] = "class"
    neighbours: Annotated[int, Field(ge=1)] | None = None
    strength: Strengths = 0.7

    @property
    def listens(self) -> bool:
        return self.by == "confusion"

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        _refuse_nothing(self, train)
        shares = self.shares(train, len(wanted))
        counts = np.bincount(train.labels, minlength=len(wanted))
        begins = np.cumsum(counts) - counts
        shuffled = generator("sources", seed).permutation(len(train.labels))
        dealt = shuffled[np.argsort(train.labels[shuffled], kind="stable")]  # class by class

        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            # Steps of the golden ratio: any number of first rows has the shares, within a row or two of each class.
            around = (rng.random() + GOLDEN * np.arange(n)) % 1
            edges = np.cumsum(shares[label])
            sources = np.searchsorted(edges[:-1], around * edges[-1], side="right")
            turn = rng.integers(len(dealt)) + _times_before(sources)
            return dealt[begins[sources] + turn % counts[sources]], None

        return _plan(wanted, train, seed, choose, self.strength)

    def shares(self, train: TrainRows, classes: int) -> np.ndarray:
        """How often each class lends a row to each class wanted, up to a factor: (wanted, source)."""
        counts = np.bincount(train.labels, minlength=classes).astype(float)
        if self.by == "confusion":
            if train.confusion is None:
                raise Refusal(
                    "FromAny by confusion reads what a tutor found on validation, and there is none: give the synthesis "
                    "a tutor"
                )
            shares = (train.confusion + train.confusion.T) * (counts > 0)
            np.fill_diagonal(shares, 0)
        else:
            shares = np.tile(counts if self.by == "image" else (counts > 0).astype(float), (classes, 1))
        if self.neighbours is not None:
            means, there = _class_means(train, classes), np.flatnonzero(counts)
            for label in range(classes):
                near = _nearest(means, label, there[there != label], self.neighbours)
                shares[label, np.setdiff1d(np.arange(classes), near)] = 0
        return np.where(shares.sum(1, keepdims=True) > 0, shares, counts)


@part
class Neighbours:
    """Pairs of a class: an image and one of its nearest neighbours, as SMOTE (Chawla 2002) and ADASYN (He 2008) choose them.

    SMOTE takes every image alike; ADASYN takes an image more often the more neighbours of other classes it has.
    """

    kind: Literal["smote", "adasyn"] = "smote"
    k: Annotated[int, Field(ge=1)] = 5

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        _refuse_nothing(self, train)
        everyone = NearestNeighbors(n_neighbors=min(self.k + 1, len(train.ids))).fit(train.vectors)

        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            rows = train.of_class(label)
            if len(rows) < 2:
                return _evenly(rows, n, rng), None
            k = min(self.k, len(rows) - 1)
            near = _without_self(
                NearestNeighbors(n_neighbors=k + 1).fit(train.vectors[rows]), train.vectors[rows]
            )
            if self.kind == "smote":
                picked = _evenly(np.arange(len(rows)), n, rng)
            else:
                around = _without_self(everyone, train.vectors[rows], itself=rows)
                picked = rng.permutation(
                    np.repeat(np.arange(len(rows)), self.spread(train.labels[around] != label, n))
                )
            return rows[picked], rows[near[picked, rng.integers(k, size=n)]]

        return _plan(wanted, train, seed, choose)

    @staticmethod
    def spread(strangers: np.ndarray, n: int) -> np.ndarray:
        """How often each image of a class is used, in proportion to the strangers around it; sums to n exactly."""
        share = strangers.mean(1)
        share = share / share.sum() if share.sum() else np.full(len(share), 1 / len(share))
        counts = np.floor(share * n).astype(int)
        rest = np.argsort(-(share * n - counts), kind="stable")[: n - counts.sum()]
        counts[rest] += 1
        return counts


def _refuse_nothing(pairing: object, train: TrainRows) -> None:
    if not len(train.ids):
        raise Refusal(
            f"{type(pairing).__name__} starts samples from real rows, and this study has none to learn from: take FromNoise"
        )


def _without_self(
    index: NearestNeighbors, points: np.ndarray, itself: np.ndarray | None = None
) -> np.ndarray:
    """Neighbours of each point that is itself in the index, without the point (duplicates may stand in its place)."""
    found = index.kneighbors(points, return_distance=False)
    own = np.arange(len(points)) if itself is None else itself
    keep = found != own[:, None]
    keep[keep.all(1), -1] = False  # crowded out by exact duplicates: drop the farthest instead
    return found[keep].reshape(len(points), -1)


def _evenly(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` of these, all of them as often as the others, in an order of which more only add to the end."""
    if len(rows) == 1:
        return np.repeat(rows, n)
    rounds = -(-n // max(len(rows), 1))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:n] if n else rows[:0]


def _times_before(numbers: np.ndarray) -> np.ndarray:
    """How often each number came before in its array: 4 4 7 4 => 0 1 0 2."""
    order = np.argsort(numbers, kind="stable")
    _, first, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    before = np.empty(len(numbers), np.int64)
    before[order] = np.arange(len(numbers)) - np.repeat(first, counts)
    return before


def _class_means(train: TrainRows, classes: int) -> np.ndarray:
    """(classes, d) in units of each dimension's standard deviation; a class without rows has the mean of all."""
    scale = train.vectors.std(0)
    everyone = train.vectors.mean(0)
    rows = (train.vectors[train.of_class(label)] for label in range(classes))
    return np.stack([mine.mean(0) if len(mine) else everyone for mine in rows]) / np.where(
        scale > 0, scale, 1
    )


def _nearest(means: np.ndarray, label: int, among: np.ndarray, k: int | None) -> np.ndarray:
    """Of these classes the k (None: all) whose means are nearest to that of a class."""
    distance = np.linalg.norm(means[among] - means[label], axis=1)
    return among[np.argsort(distance, kind="stable")[:k]]


def ordinal(request_id: str) -> int:
    """How many samples of its class (or cell) stand before this row of a plan.

    >>> ordinal("0000002a-00003-0000017")
    17
    """
    return int(request_id.rpartition("-")[2])


def _by_shots(strength: ByShots, train: TrainRows, label: int) -> np.ndarray:
    """(1,): that of a class by the number of its real rows; without any there is nothing to leave."""
    if train.share_of is None:
        raise Refusal(
            "ByShots tells a signal-to-noise ratio, and this generator adds no noise to its sources: give a strength from 0 to 1"
        )
    shots = len(train.of_class(label))
    return np.array([train.share_of(strength(shots)) if shots else 1.0])


def _plan(
    wanted: np.ndarray,
    train: TrainRows,
    seed: int,
    choose: Callable[[int, int, np.random.Generator], Chosen],  # (label, how many, rng)
    strength: Strengths = 0.0,  # of the rows that have a source
) -> pa.Table:
    """A plan that meets `wanted` exactly, in class order."""

    def source(start: int, partner: int | None, strength: float) -> dict:
        return {
            "group": None if train.groups is None else int(train.groups[start]),
            "source_id": str(train.ids[start]),
            "source_label": int(train.labels[start]),
            "partner_id": None if partner is None else str(train.ids[partner]),
            "strength": strength,
        }

    def strengths(label: int) -> np.ndarray:
        if isinstance(strength, ByShots):
            return _by_shots(strength, train, label)
        if not isinstance(strength, Enough):
            return np.atleast_1d(strength)
        return np.atleast_1d(strength.among if train.enough is None else train.enough[label])

    def rows() -> Iterator[dict]:
        for label, n in enumerate(wanted.tolist()):
            starts, partners = choose(label, n, generator("plan", seed, label))
            far = _evenly(strengths(label), n, generator("strength", seed, label))
            for i in range(n):
                yield {
                    "request_id": f"{seed & 0xFFFFFFFF:08x}-{label:05d}-{i:07d}",
                    "label": label,
                    "strength": 1.0,
                    "seed": derive("request", seed, label, i),
                } | (
                    {}
                    if starts is None or starts[i] == NOWHERE
                    else source(starts[i], None if partners is None else partners[i], far[i])
                )

    made = list(rows())
    return tables.table(tables.PLAN, {name: [row.get(name) for row in made] for name in tables.PLAN.names})
