"""Which samples are kept. Every dropped one has a reason; nothing is refilled.

A select is given the named scores and the labels of the samples. What the released code of He et al. (ICLR 2023) does is no
rule here: of 800 that are wanted and not reached by p > 1/N it fills up the rest with the best of those that it dropped.
How many are lacking is seen in the funnel, and asked for again by budgets that count what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from counterpoise.types import part

Scores = Mapping[str, np.ndarray]


@part
class KeepAll:
    """Keep whatever was made."""

    def __call__(self, scores: Scores, labels: np.ndarray) -> list[str | None]:
        return [None] * len(labels)


@part
class AtLeast:
    """Drop what scores below a limit in the named score."""

    score: str = "nearest_real"
    limit: float = 1.0

    def __call__(self, scores: Scores, labels: np.ndarray) -> list[str | None]:
        reason = f"{self.score} below {self.limit:g}"
        return [None if value >= self.limit else reason for value in _named(scores, self.score)]


@part
class BestShare:
    """Keep this share of every class, rounded up, those with the highest values of the named score; of equals the first."""

    score: str = "nearest_real"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5

    def __call__(self, scores: Scores, labels: np.ndarray) -> list[str | None]:
        places = _places(_named(scores, self.score), labels)
        most = np.ceil(np.round(self.share * np.bincount(labels), 6))[labels]
        reason = f"{self.score} not in the best {100 * self.share:g} % of its class"
        return [None if fine else reason for fine in places < most]


@part
class BestCount:
    """Keep at most so many of every class, those with the highest values of the named score; of equals the first."""

    score: str = "nearest_real"
    count: Annotated[int, Field(ge=1)] = 800

    def __call__(self, scores: Scores, labels: np.ndarray) -> list[str | None]:
        reason = f"{self.score} not in the best {self.count} of its class"
        return [
            None if place < self.count else reason for place in _places(_named(scores, self.score), labels)
        ]


@part
class Every:
    """Keep what every one of the given selects keeps, each asked in turn of what those before it have kept.

    The first that drops a sample says why. AtLeast and then BestShare keep a share of what is good enough; the other way
    round, what is good enough of a share of everything.
    """

    selects: Annotated[tuple[Any, ...], Field(min_length=1)]

    def __call__(self, scores: Scores, labels: np.ndarray) -> list[str | None]:
        said: np.ndarray = np.full(len(labels), None, object)
        for select in self.selects:
            left = np.flatnonzero([reason is None for reason in said])
            said[left] = select({name: values[left] for name, values in scores.items()}, labels[left])
        return said.tolist()


def _named(scores: Scores, name: str) -> np.ndarray:
    if name not in scores:
        raise ValueError(f"there is no score {name!r}; scores made: {', '.join(scores) or 'none'}")
    return scores[name]


def _places(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each among those of its class: 0 has the highest value, one that is no number the last.

    >>> _places(np.array([0.1, 0.9, 0.5, 0.7]), np.array([0, 0, 1, 0])).tolist()
    [2, 0, 0, 1]
    """
    order = np.lexsort((-values, labels))  # class by class; stable
    first = np.searchsorted(labels[order], labels[order])
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - first
    return places
