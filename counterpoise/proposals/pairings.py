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
from counterpoise.seeding import derive, generator
from counterpoise.types import part


@dataclass(frozen=True)
class TrainRows:
    """The real training rows a plan may use: ids, labels, groups and, where a pairing looks at them, their vectors."""

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    vectors: np.ndarray  # (n, d)

    def of_class(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels == label)


#: Places among the training rows: of the sources, and of their partners; None where there are none.
Chosen = tuple[np.ndarray | None, np.ndarray | None]
NOWHERE = -1  # the place of the source of a sample that starts from noise among others that do not


@part
class FromNoise:
    """Every sample starts from noise: only its class is asked for."""

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        return _plan(wanted, train, seed, lambda label, n, rng: (None, None))


@part
class SameClass:
    """Each sample starts from one real image of its own class, every image used as evenly as possible.

    `strength` is how far a generator that can go part of the way leaves it: 0 not at all, 1 for good. The share
    `dropout` of each class's samples has no image and starts from noise: what images alone make is too much like them.
    """

    strength: Annotated[float, Field(ge=0, le=1)] = 0.0
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            without = round(self.dropout * n)
            sources = _evenly(train.of_class(label), n - without, rng)
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
    strength: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
        counts = np.bincount(train.labels, minlength=len(wanted))
        means = _class_means(train, len(wanted))

        def choose(label: int, n: int, rng: np.random.Generator) -> Chosen:
            larger = np.flatnonzero(counts > counts[label])
            distance = np.linalg.norm(means[larger] - means[label], axis=1)
            near = larger[np.argsort(distance, kind="stable")[: self.neighbours]]
            sources = near if len(near) else [label]
            return _evenly(np.flatnonzero(np.isin(train.labels, sources)), n, rng), None

        return _plan(wanted, train, seed, choose, self.strength)


@part
class Neighbours:
    """Pairs of a class: an image and one of its nearest neighbours, as SMOTE (Chawla 2002) and ADASYN (He 2008) choose them.

    SMOTE takes every image alike; ADASYN takes an image more often the more neighbours of other classes it has.
    """

    kind: Literal["smote", "adasyn"] = "smote"
    k: Annotated[int, Field(ge=1)] = 5

    def __call__(self, wanted: np.ndarray, train: TrainRows, seed: int) -> pa.Table:
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
    rounds = -(-n // max(len(rows), 1))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:n] if n else rows[:0]


def _class_means(train: TrainRows, classes: int) -> np.ndarray:
    """(classes, d) in units of each dimension's standard deviation; a class without rows has the mean of all."""
    scale = train.vectors.std(0)
    everyone = train.vectors.mean(0)
    rows = (train.vectors[train.of_class(label)] for label in range(classes))
    return np.stack([mine.mean(0) if len(mine) else everyone for mine in rows]) / np.where(
        scale > 0, scale, 1
    )


def _plan(
    wanted: np.ndarray,
    train: TrainRows,
    seed: int,
    choose: Callable[[int, int, np.random.Generator], Chosen],  # (label, how many, rng)
    strength: float = 0.0,  # of the rows that have a source
) -> pa.Table:
    """A plan that meets `wanted` exactly, in class order."""

    def source(start: int, partner: int | None) -> dict:
        return {
            "group": None if train.groups is None else int(train.groups[start]),
            "source_id": str(train.ids[start]),
            "source_label": int(train.labels[start]),
            "partner_id": None if partner is None else str(train.ids[partner]),
            "strength": strength,
        }

    def rows() -> Iterator[dict]:
        for label, n in enumerate(wanted.tolist()):
            starts, partners = choose(label, n, generator("plan", seed, label))
            for i in range(n):
                yield {
                    "request_id": f"{seed & 0xFFFFFFFF:08x}-{label:05d}-{i:07d}",
                    "label": label,
                    "strength": 1.0,
                    "seed": derive("request", seed, label, i),
                } | (
                    {}
                    if starts is None or starts[i] == NOWHERE
                    else source(starts[i], None if partners is None else partners[i])
                )

    made = list(rows())
    return tables.table(tables.PLAN, {name: [row.get(name) for row in made] for name in tables.PLAN.names})
