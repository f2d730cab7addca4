"""How many synthetic samples each class gets, in imbalanced-learn's words."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from counterpoise.types import part

Words = Literal["minority", "not minority", "not majority", "all"]


@part
class FillUp:
    """Fill the chosen classes up to a count: that of the largest class, or `to`.

    >>> FillUp()(np.array([100, 10, 1])).tolist()
    [0, 90, 99]
    >>> FillUp(strategy="minority", to=50)(np.array([100, 10, 1])).tolist()
    [0, 0, 49]
    """

    strategy: Words = "not majority"
    to: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        target = int(counts.max()) if self.to is None else self.to
        return np.where(chosen(self.strategy, counts), np.maximum(target - counts, 0), 0)


@part
class Multiply:
    """`times` as many synthetic as real samples in each of the chosen classes.

    >>> Multiply(times=2.0, strategy="not majority")(np.array([100, 10, 1])).tolist()
    [0, 20, 2]
    """

    times: Annotated[float, Field(gt=0)] = 1.0
    strategy: Words = "all"

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        return np.where(chosen(self.strategy, counts), np.rint(counts * self.times), 0).astype(np.int64)


def chosen(words: Words, counts: np.ndarray) -> np.ndarray:
    """Which classes imbalanced-learn's words mean; an empty class is nobody's minority: nothing can be made from it."""
    there = counts > 0
    smallest = counts == counts[there].min() if there.any() else there
    if words == "minority":
        return there & smallest
    if words == "not minority":
        return there & ~smallest
    if words == "not majority":
        return there & (counts < counts.max())
    return there
